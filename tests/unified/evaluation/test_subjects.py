"""DreamBench, DreamBench++ and CustomConcept101: read as published, averaged as by hand."""

import json
from pathlib import Path

import pytest
import torch

from tests.unified.evaluation.colours import GREEN, HALF, RED, YELLOW, Colour, paint
from unified.errors import UserError
from unified.evaluation import custom_concept_101, dreambench, dreambench_plus
from unified.evaluation.subjects import evaluate_subjects, foreground, mask_reader
from unified.images import save_image

PROMPTS = """Classes

subject_name,class
can,can
dog2,dog

Prompts

Object Prompts

prompt_list = [
'a red {0} {1}'.format(unique_token, class_token),
'a green {0} {1} on top of a mirror'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a red {0} {1}'.format(unique_token, class_token),
'a not red {0} {1} in a chef outfit'.format(unique_token, class_token)
]
"""
COLOURS = {"dino": Colour("colour a"), "clip": Colour("colour b"), "dinov2": Colour("colour c")}


@pytest.fixture
def dreambench_folders(tmp_path: Path) -> tuple[Path, Path]:
    """can: references red and green. Prompt 0: three red pictures and a yellow one. Prompt 1: a green one.
    dog2: one red reference. Prompt 0: a red picture. Prompt 1: a red and a green one."""
    data, generated = tmp_path / "dataset", tmp_path / "run"
    data.mkdir()
    (data / dreambench.FILE).write_text(PROMPTS)
    paint(data / "can" / "00.jpg", RED), paint(data / "can" / "01.png", GREEN)
    paint(data / "dog2" / "00.png", RED)
    for number, colour in enumerate((RED, RED, RED, YELLOW)):
        paint(generated / "can" / "00" / f"{number}.png", colour)
    paint(generated / "can" / "01" / "0.png", GREEN)
    paint(generated / "dog2" / "00" / "0.png", RED)
    paint(generated / "dog2" / "01" / "0.png", RED), paint(generated / "dog2" / "01" / "1.png", GREEN)
    (data / "can" / "00.jpg").unlink()  # as JPEG changes colours a little
    paint(data / "can" / "00.png", RED)
    return data, generated


def test_dreambench_averages_references_then_prompts_then_subjects(dreambench_folders: tuple[Path, Path]) -> None:
    subjects = dreambench.read(*dreambench_folders)
    result = evaluate_subjects(dreambench.PROTOCOL, subjects, COLOURS, run="run")
    # can, prompt 0: a red picture has (1 + 0) / 2 with the references, the yellow one HALF with both.
    can = ((3 * 0.5 + HALF) / 4 + 0.5) / 2
    dog = (1 + (1 + 0) / 2) / 2
    found = result.scores["dino-i"]
    assert found.score.value == pytest.approx((can + dog) / 2, abs=1e-6)
    assert found.score.averaging == "references > images > prompts > subjects"
    assert found.score.extractor == "colour a" and result.scores["clip-i"].score.extractor == "colour b"
    assert found.interval is not None and found.interval.low == pytest.approx(min(can, dog), abs=1e-6)
    # Texts: "a red can", "a green can on top of a mirror"; "a red dog", "a not red dog in a chef outfit".
    text_can = ((3 * 1 + HALF) / 4 + 1) / 2
    text_dog = (1 + (-1 + 0) / 2) / 2
    assert result.scores["clip-t"].score.value == pytest.approx((text_can + text_dog) / 2, abs=1e-6)


def test_dreambench_prompts_by_class_and_without_identifier(dreambench_folders: tuple[Path, Path]) -> None:
    prompts = dreambench.read_prompts(dreambench_folders[0])
    assert prompts.texts("can") == ("a red can", "a green can on top of a mirror")
    assert prompts.texts("dog2")[1] == "a not red dog in a chef outfit"
    assert prompts.prompts("dog2")[1] == "a not red {} in a chef outfit"
    [can, dog] = dreambench.requests(dreambench_folders[0])
    assert (can.name, can.category, dog.category) == ("can", "can", "dog") and len(can.references) == 2


def test_what_is_missing_is_named(dreambench_folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, generated = dreambench_folders
    (generated / "dog2").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"1 of 2 subjects .* dog2"):
        dreambench.read(data, generated)
    assert [subject.name for subject in dreambench.read(data, generated, partial=True)] == ["can"]
    (generated / "can" / "01").rename(tmp_path / "prompt")
    with pytest.raises(UserError, match="can for prompt 01"):
        dreambench.read(data, generated, partial=True)
    with pytest.raises(UserError, match=r"prompts_and_classes\.txt"):
        dreambench.read(tmp_path, generated)


def test_one_subject_has_no_interval(dreambench_folders: tuple[Path, Path]) -> None:
    subjects = dreambench.read(*dreambench_folders)[:1]
    found = evaluate_subjects(dreambench.PROTOCOL, subjects, {"dino": COLOURS["dino"]}, run="run")
    assert set(found.scores) == {"dino-i"}
    assert found.scores["dino-i"].interval is None and found.scores["dino-i"].count == 1


def test_the_foreground_alone_is_compared(dreambench_folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Left halves on white: a red picture is (1, .5, .5) on average, a green one (.5, 1, .5)."""
    data, generated = dreambench_folders
    left = torch.zeros(3, 8, 8)
    left[..., :4] = 1
    for folder in (data, generated):
        for path in folder.rglob("*.png"):
            place = tmp_path / f"{folder.name}-masks" / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            save_image(left, place)
    masks = mask_reader(data, tmp_path / "dataset-masks", generated, tmp_path / "run-masks")
    subjects = [subject for subject in dreambench.read(data, generated) if subject.name == "dog2"]
    found = evaluate_subjects(dreambench.PROTOCOL, subjects, COLOURS, run="run", masks=masks)
    assert set(found.scores) == {"dino-i-foreground", "clip-i-foreground"}
    cosine = (1 * 0.5 + 0.5 * 1 + 0.5 * 0.5) / 1.5
    score = found.scores["dino-i-foreground"].score
    assert score.value == pytest.approx((1 + (1 + cosine) / 2) / 2, abs=1e-6)
    assert "foreground on white" in score.extractor
    (tmp_path / "run-masks" / "dog2" / "00" / "0.png").unlink()
    with pytest.raises(UserError, match="has no mask"):
        evaluate_subjects(dreambench.PROTOCOL, subjects, COLOURS, run="run", masks=masks)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        foreground(torch.ones(3, 4, 4), torch.zeros(4, 4))
    with pytest.raises(UserError, match="pixels"):
        foreground(torch.ones(3, 4, 4), torch.ones(4, 5))


@pytest.fixture
def plus_folders(tmp_path: Path) -> tuple[Path, Path]:
    data, generated = tmp_path / "data", tmp_path / "run"
    for category, colour in (("animal", RED), ("style", GREEN)):
        (data / "captions" / category).mkdir(parents=True)
        (data / "captions" / category / "07.txt").write_text("a thing\na red thing\na green thing\n\n")
        path = data / "images" / category / "07.jpg"
        paint(path, colour)
    for name, colours in (("animal-07", (RED, YELLOW)), ("style-07", (GREEN, RED))):
        for number, colour in enumerate(colours):
            paint(generated / name / f"{number:02d}" / "0.png", colour)
    return data, generated


def test_dreambench_plus_averages_over_all_pairs(plus_folders: tuple[Path, Path]) -> None:
    subjects = dreambench_plus.read(*plus_folders)
    assert [s.name for s in subjects] == ["animal-07", "style-07"]
    assert subjects[0].texts == ("a red thing", "a green thing")
    found = evaluate_subjects(dreambench_plus.PROTOCOL, subjects, COLOURS, run="run").scores
    # JPEG's colours are near, not equal: hence the tolerance.
    assert found["dinov2-i"].score.value == pytest.approx((1 + HALF + 1 + 0) / 4, abs=0.01)
    # red with red, yellow with green, green with red, red with green
    assert found["clip-t"].score.value == pytest.approx((1 + HALF + 0 + 0) / 4, abs=1e-6)
    assert found["clip-t"].score.averaging == "all images > subjects"


def test_dreambench_plus_puts_the_concept_where_the_subject_is_named(plus_folders: tuple[Path, Path]) -> None:
    data, _ = plus_folders
    (data / "captions" / "animal" / "07.txt").write_text("grey cat\nA Grey Cat, asleep\na watercolour\n")
    request = dreambench_plus.requests(data)[0]
    assert request.category == "grey cat" and request.texts == ("A Grey Cat, asleep", "a watercolour")
    assert request.prompts == ("A {}, asleep", "{}, a watercolour")


def test_dreambench_plus_wants_equally_many_pictures(plus_folders: tuple[Path, Path]) -> None:
    data, generated = plus_folders
    paint(generated / "style-07" / "01" / "1.png", RED)
    with pytest.raises(UserError, match="style-07/01 has 2"):
        dreambench_plus.read(data, generated)
    with pytest.raises(UserError, match="not the DreamBench"):
        dreambench_plus.read(generated, generated)


def test_custom_concept_101_pools_and_clips(tmp_path: Path) -> None:
    """A concept with two references; prompt 0 has one picture, prompt 1 three; pooled, the four count alike."""
    data, generated = tmp_path / "data", tmp_path / "run"
    (data / "prompts").mkdir(parents=True)
    (data / "prompts" / "things.txt").write_text("photo of a red {}.\nphoto of a not green {}\n")
    rows = [
        {
            "instance_prompt": "photo of a <new1> cup",
            "class_prompt": "cup",
            "instance_data_dir": "./benchmark_dataset/things_cup1",
            "class_data_dir": "./regularization/things_cup",
            "prompt_filename": "prompts/things.txt",
        }
    ]
    (data / "dataset.json").write_text(json.dumps(rows))
    for number, colour in enumerate((RED, GREEN)):
        paint(data / "benchmark_dataset" / "things_cup1" / f"{number}.png", colour)
    paint(generated / "things_cup1" / "00" / "0.png", YELLOW)
    for number, colour in enumerate((RED, RED, GREEN)):
        paint(generated / "things_cup1" / "01" / f"{number}.png", colour)
    subjects = custom_concept_101.read(data, generated)
    assert subjects[0].texts == ("photo of a red cup.", "photo of a not green cup")
    found = evaluate_subjects(custom_concept_101.PROTOCOL, subjects, COLOURS, run="run").scores
    assert found["clip-image-alignment"].score.value == pytest.approx((HALF + 3 * 0.5) / 4, abs=1e-6)
    # 2.5 max(cosine, 0): yellow with red HALF; red with "not green" 0, green with it -1, which counts as 0.
    assert found["clip-text-alignment"].score.value == pytest.approx(2.5 * HALF / 4, abs=1e-6)
    assert "2.5 max(cosine, 0)" in found["clip-text-alignment"].score.extractor
    with pytest.raises(UserError, match=r"dataset\.json"):
        custom_concept_101.read(generated, generated)


def test_custom_concept_101_counts_concepts_alike(tmp_path: Path) -> None:
    """One concept has four pictures and one has two: the mean is over concepts, not over the six pictures."""
    data, generated = tmp_path / "data", tmp_path / "run"
    (data / "prompts").mkdir(parents=True)
    (data / "prompts" / "things.txt").write_text("a red {}\na green {}\n")
    rows = [
        {
            "class_prompt": "cup",
            "instance_data_dir": f"benchmark_dataset/{name}",
            "prompt_filename": "prompts/things.txt",
        }
        for name in ("cup1", "cup2")
    ]
    (data / "dataset.json").write_text(json.dumps(rows))
    (
        paint(data / "benchmark_dataset" / "cup1" / "0.png", RED),
        paint(data / "benchmark_dataset" / "cup2" / "0.png", GREEN),
    )
    for number, colour in enumerate((RED, RED, YELLOW)):
        paint(generated / "cup1" / "00" / f"{number}.png", colour)
    paint(generated / "cup1" / "01" / "0.png", RED)
    for prompt in ("00", "01"):
        paint(generated / "cup2" / prompt / "0.png", RED)
    found = evaluate_subjects(
        custom_concept_101.PROTOCOL, custom_concept_101.read(data, generated), COLOURS, run="run"
    ).scores
    first, second = (3 + HALF) / 4, 0.0
    assert found["dino-image-alignment"].score.value == pytest.approx((first + second) / 2, abs=1e-6)
    interval = found["dino-image-alignment"].interval
    assert interval is not None and (interval.low, interval.high) == pytest.approx((second, first), abs=1e-6)
    # 2.5 max(cosine, 0): cup1 red, red and yellow with red, red with green; cup2 red with red, red with green.
    text = 2.5 * ((2 + HALF) / 4 + 1 / 2) / 2
    assert found["clip-text-alignment"].score.value == pytest.approx(text, abs=1e-6)
