"""`unified study` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unified.cli import main
from unified.contract.keys import digest
from unified.images import save_image

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["study", *map(str, arguments)])
        streams = capsys.readouterr()
        return int(end.value.code or 0), streams.out, streams.err

    return run


def test_make_and_tally(study: Command, tmp_path: Path) -> None:
    report, out = tmp_path / "report", tmp_path / "out"
    report.mkdir()
    about = {"runs": ["m:one", "m:two"], "prompts": ["<me>"], "seeds": [0], "category": "person", "name": "<me>"}
    (report / "comparison.json").write_text(json.dumps(about))
    for slug in ("m-one", "m-two"):
        save_image(torch.rand(3, 8, 8), report / "cells" / slug / f"{digest('<me>')[:10]}-0.png")
    code, text, err = study("make", report, out, "--references", "avatarbench/person-03")
    assert code == 0, err
    assert "2 pairs of 2 runs" in text and "Do not send it out" in text
    key = json.loads((out / "key.json").read_text())
    choices = {t["id"]: {"choice": "left" if t["left"] == "m:two" else "right"} for t in key["trials"]}
    answers = {"study": key["study"], "participant": "p1", "answers": choices}
    (tmp_path / "results.json").write_text(json.dumps(answers))
    code, text, err = study("tally", out, tmp_path / "results.json")
    assert code == 0, err
    assert "fidelity" in text and "m:two" in text and "100.0%" in text and "2 answers of 1 participant;" in text
    code, _, err = study("tally", out, out / "key.json")
    assert code == 2 and "no results" in err
    code, _, err = study("make", tmp_path, out)
    assert code == 2 and "unified compare" in err
