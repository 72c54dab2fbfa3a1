"""What is generated is what the protocols read, and is taken up again."""

from pathlib import Path

import pytest

from tests.tiny.families import tiny
from tests.unified.evaluation.colours import GREEN, RED, Colour, paint
from tests.unified.evaluation.test_subjects import PROMPTS
from unified.contract.recipe import recipes
from unified.errors import UserError
from unified.evaluation import dreambench
from unified.evaluation.generate import generate_subjects
from unified.evaluation.subjects import evaluate_subjects


def test_a_run_is_generated_evaluated_and_continued(tmp_path: Path) -> None:
    data, out = tmp_path / "dataset", tmp_path / "run"
    data.mkdir()
    (data / dreambench.FILE).write_text(PROMPTS)
    paint(data / "can" / "00.png", RED), paint(data / "dog2" / "00.png", GREEN)
    backbone, recipe = tiny("stable-diffusion"), recipes.get("textual-inversion").with_overrides(steps=1)
    requests = dreambench.requests(data)
    said: list[str] = []
    generate_subjects(requests, backbone, recipe, out, pictures=2, sampling={"steps": 2}, say=said.append)
    assert said == ["1 of 2: can", "2 of 2: dog2"]
    assert sorted(p.relative_to(out).as_posix() for p in (out / "can").rglob("*.png")) == [
        f"can/{prompt}/image-00{number}.png" for prompt in ("00", "01") for number in (0, 1)
    ]
    found = evaluate_subjects(dreambench.PROTOCOL, dreambench.read(data, out), {"dino": Colour()}, run="run")
    assert found.scores["dino-i"].count == 2
    kept = (out / "can" / "00" / "image-000.png").read_bytes()
    for path in (out / "can" / "01").iterdir():
        path.unlink()
    (out / "can" / "01").rmdir()
    said.clear()
    concept = (out / "concepts" / "can.safetensors").stat().st_mtime_ns
    generate_subjects(requests, backbone, recipe, out, pictures=2, sampling={"steps": 2}, say=said.append)
    assert said == ["1 of 2: can"]
    assert (out / "concepts" / "can.safetensors").stat().st_mtime_ns == concept
    assert (out / "can" / "00" / "image-000.png").read_bytes() == kept
    assert len(dreambench.read(data, out)) == 2


def test_a_recipe_of_another_family_is_refused_before_any_work(tmp_path: Path) -> None:
    paint(tmp_path / "0.png", RED)
    request = dreambench.Request("can", (tmp_path / "0.png",), "can", ("a {}",), ("a can",))
    with pytest.raises(UserError, match="does not run on"):
        generate_subjects([request], tiny("stable-diffusion"), "pti", tmp_path / "run")
    assert not (tmp_path / "run").exists()
