"""`unified evaluate` with the published protocols, on tiny weights of the real formats."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.unified.evaluation.colours import GREEN, RED, paint
from tests.unified.evaluation.test_subjects import PROMPTS
from unified.cli import main
from unified.evaluation import inception

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *map(str, arguments)])
        streams = capsys.readouterr()
        return int(end.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """DreamBench's data with two subjects, one run, and a DINO of random weights."""
    from transformers import ViTConfig, ViTModel

    root = tmp_path_factory.mktemp("protocols")
    data, generated = root / "dataset", root / "my-run"
    data.mkdir()
    (data / "prompts_and_classes.txt").write_text(PROMPTS)
    for subject, colour in (("can", RED), ("dog2", GREEN)):
        paint(data / subject / "00.png", colour)
        for prompt in ("00", "01"):
            paint(generated / subject / prompt / "0.png", colour)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=224, patch_size=112
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(root / "tiny-dino")
    return data, generated, root / "tiny-dino"


def test_dreambench_prints_scores_and_how_they_were_measured(
    evaluate: Command, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, generated, dino = folders
    output = tmp_path / "scores.json"
    code, out, err = evaluate("dreambench", data, generated, "--only", "dino", "--dino", dino, "--output", output)
    assert code == 0, err
    assert "my-run" in out and "1.0000 [1.0000, 1.0000]" in out  # the run shows the references themselves
    assert f"dino-i ({dino}, 256 > 224, mean over references > images > prompts > subjects)" in out
    assert "2 of 2, dog2" in err
    code, again, _ = evaluate("table", output, output)
    assert code == 0 and again.count("my-run") == 2


def test_embedded_and_real_scores_are_refused_in_one_table(
    evaluate: Command, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, generated, dino = folders
    evaluate("dreambench", data, generated, "--only", "dino", "--dino", dino, "--output", tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    rows[0]["scores"]["dino-i"]["score"]["extractor"] = "avatars/identity"
    (tmp_path / "b.json").write_text(json.dumps(rows))
    code, _, err = evaluate("table", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 2 and "different things" in err


def test_data_is_checked_before_weights_are_looked_for(evaluate: Command, folders: tuple[Path, Path, Path]) -> None:
    data, generated, _ = folders
    code, _, err = evaluate("dreambench", generated, generated)
    assert code == 2 and "not the DreamBench data" in err
    code, _, err = evaluate("dreambench", data, generated)
    assert code == 2 and "facebook/dino-vits16" in err
    for command in ("dreambench++", "customconcept101", "pie-bench"):
        code, _, err = evaluate(command, generated, generated)
        assert code == 2 and str(generated) in err
    code, _, err = evaluate("dreambench", data, generated, "--only", "gpt")
    assert code == 2 and "clip, dino" in err
    code, _, err = evaluate("dreambench", data, generated, "--data-masks", data)
    assert code == 2 and "--masks" in err


def test_fid_of_two_folders(evaluate: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(
        {name: value.contiguous() for name, value in inception.build().state_dict().items()},
        tmp_path / "inception.safetensors",
    )
    for folder in ("real", "made"):
        for number in range(3):
            paint(tmp_path / folder / f"{number}.png", (number / 3, 0.5, 0.1 * len(folder)))
    code, out, err = evaluate(
        "fid", tmp_path / "real", tmp_path / "made", "--inception", tmp_path / "inception.safetensors"
    )
    assert code == 0, err
    assert "3 real, 3 generated" in out and "kid" in out
    code, _, err = evaluate("fid", tmp_path / "real", tmp_path / "nothing")
    assert code == 2 and "0 pictures" in err


def test_image_reward_reads_the_data_first_and_names_its_package(
    evaluate: Command, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, generated, _ = folders
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    code, _, err = evaluate("image-reward", "dreambench", generated, generated)
    assert code == 2 and "not the DreamBench data" in err
    code, _, err = evaluate("image-reward", "pie-bench", data, generated)
    assert code == 2 and "customconcept101" in err
    code, _, err = evaluate("image-reward", "dreambench", data, generated)
    assert code == 2 and "pip install image-reward" in err
    model = SimpleNamespace(score=lambda prompt, image: float(len(prompt)))
    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=lambda name: model))
    code, out, err = evaluate("image-reward", "dreambench", data, generated)
    assert code == 0, err
    assert "my-run" in out and "image-reward (ImageReward-v1.0, mean over images > prompts > subjects)" in out
