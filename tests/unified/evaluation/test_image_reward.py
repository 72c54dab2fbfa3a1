"""ImageReward with a stand-in for its package: what is asked of it, how it averages, what is said without it."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unified.evaluation.colours import GREEN, RED, paint
from unified.errors import UserError
from unified.evaluation.image_reward import evaluate, load
from unified.evaluation.subjects import Subject


class StandIn:
    """The reward is the redness of the picture, and 10 more if the prompt asks for it."""

    def score(self, prompt: str, image: Image.Image) -> float:
        assert image.mode == "RGB"
        return image.getpixel((0, 0))[0] / 255 + 10 * ("red" in prompt)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the stand-in's load was called with."""
    calls: list[tuple[str, dict[str, Any]]] = []
    package = types.ModuleType("ImageReward")

    def load(name: str = "", **settings: Any) -> StandIn:
        calls.append((name, settings))
        if "missing" in name:
            raise RuntimeError("Model not found\nand more")
        return StandIn()

    package.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ImageReward", package)
    return calls


def subject(folder: Path, name: str, pictures: list[list[Any]]) -> Subject:
    """Prompts "red" and "green" with these colours drawn for each."""
    generated = []
    for prompt, colours in enumerate(pictures):
        paths = [folder / name / f"{prompt:02d}" / f"{i}.png" for i in range(len(colours))]
        for path, colour in zip(paths, colours, strict=True):
            paint(path, colour)
        generated.append(tuple(paths))
    return Subject(name, (), ("a red thing", "a green thing")[: len(pictures)], tuple(generated))


def test_rewards_average_over_pictures_then_prompts_then_subjects(
    asked: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    one = subject(tmp_path, "one", [[RED, RED, GREEN], [RED]])
    two = subject(tmp_path, "two", [[GREEN], [GREEN, GREEN]])
    reward = load()
    high, low = reward("", _picture(RED, tmp_path)), reward("", _picture(GREEN, tmp_path))
    done: list[str] = []
    found = evaluate([one, two], reward, run="r", protocol="DreamBench", done=done.append).scores["image-reward"]
    first = ((2 * high + low) / 3 + 10 + high) / 2  # by hand: the prompt of three pictures weighs as that of one
    second = (low + 10 + low) / 2
    assert found.score.value == pytest.approx((first + second) / 2)
    assert found.interval is not None and found.count == 2 and done == ["one", "two"]
    assert found.score.column == "image-reward (ImageReward-v1.0, mean over images > prompts > subjects)"
    assert asked == [("ImageReward-v1.0", {})]


def _picture(colour: Any, folder: Path) -> Any:
    from unified.images import read_images

    paint(folder / "one.png", colour)
    return read_images(folder / "one.png")[0]


def test_files_of_weights_are_handed_on(asked: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    assert load(tmp_path / "my.pt", med_config=tmp_path / "med.json").name == "my.pt"
    assert asked == [(str(tmp_path / "my.pt"), {"med_config": str(tmp_path / "med.json")})]
    with pytest.raises(UserError, match=r"missing\.pt cannot be had \(Model not found\): give their file"):
        load("missing.pt")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(UserError, match="package image-reward"):
        load()


def test_a_package_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ImageReward.py").write_text("import no_such_module_of_old\n")
    monkeypatch.delitem(sys.modules, "ImageReward", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"installed and cannot be imported.*no_such_module_of_old"):
        load()


def test_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="at least one subject"):
        evaluate([], lambda prompt, picture: 0.0, run="r", protocol="p")  # type: ignore[arg-type]
