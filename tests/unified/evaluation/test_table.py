"""Unlike numbers are never in one column."""

from pathlib import Path

import pytest

from unified.errors import UserError
from unified.evaluation.avatarbench import PersonScores, result
from unified.evaluation.table import Measured, Result, load_results, save_results, tabulate
from unified.metrics.bootstrap import mean_interval
from unified.metrics.score import Score

REAL = "openai/clip-vit-base-patch32, 224 > 224"


def one(run: str, extractor: str = REAL, *, protocol: str = "DreamBench", count: int = 2) -> Result:
    score = Score(0.5, "clip-i", extractor, "references > images > prompts > subjects")
    return Result(run, protocol, {"clip-i": Measured(score, mean_interval([0.4, 0.6]), count)})


def test_equal_measures_share_a_column() -> None:
    table = tabulate([one("a"), one("b")])
    assert [run for run, _ in table.rows] == ["a", "b"]
    assert REAL in table.columns["clip-i"]
    assert table.rows[0][1]["clip-i"].startswith("0.5000 [0.4")


def test_embedded_and_real_extractors_are_never_mixed() -> None:
    embedded = result("b", [PersonScores("p", {"clip-i": 0.9}), PersonScores("q", {"clip-i": 0.8})])
    with pytest.raises(UserError, match=r"avatars/clip.*table of its own"):
        tabulate([one("a"), embedded])


@pytest.mark.parametrize("other", [one("b", "other, 256 > 224"), one("b", protocol="DreamBench++"), one("b", count=1)])
def test_other_crops_protocols_and_subsets_are_refused(other: Result) -> None:
    with pytest.raises(UserError):
        tabulate([one("a"), other])


def test_results_come_back_from_a_file(tmp_path: Path) -> None:
    path = save_results([one("a"), one("b")], tmp_path / "scores.json")
    assert load_results(path) == [one("a"), one("b")]
    path.write_text("[{}]")
    with pytest.raises(UserError, match="holds no results"):
        load_results(path)


def test_times_are_no_scores() -> None:
    scores = [PersonScores("p", {"psnr": 20.0, "seconds": 3.0}), PersonScores("q", {"psnr": 22.0, "seconds": 5.0})]
    found = result("run", scores).scores
    assert set(found) == {"psnr"} and found["psnr"].score.value == 21.0
