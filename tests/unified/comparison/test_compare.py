"""Comparisons of tiny random models with extractors that cost nothing."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unified
from tests.tiny.families import pictures, tiny
from tests.unified.comparison.fakes import Colours, fake_scorers
from unified import Run
from unified.comparison.compare import compare
from unified.comparison.scorers import Scorers
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.images import read_images
from unified.metrics.similarity import concept_fidelity, prompt_following

PROMPTS = ["{} wearing sunglasses", "{} smiling"]


@pytest.fixture
def images() -> torch.Tensor:
    return pictures(tiny("stylegan"), 2).images


def word_run(label: str = "word") -> Run:
    return Run(tiny("stable-diffusion"), "textual-inversion", steps=1, sampling={"steps": 2}, label=label)


def gan_run() -> Run:
    return Run(tiny("stylegan"), "projector", steps=2, label="tiny/gan:projector")


def run(images: Any, folder: Path | None = None, **changes: Any) -> unified.Report:
    options: dict[str, Any] = {
        "prompts": PROMPTS,
        "runs": [word_run()],
        "category": "person",
        "scorers": fake_scorers(),
        "folder": folder,
    }
    return compare(images, **{**options, **changes})


class Counting:
    """Counts calls of the inversion and of the sampler, on every backbone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inversions = self.pictures = 0
        invert, generate = Backbone.invert, Backbone.generate

        def counted_invert(*args: Any, **options: Any) -> Any:
            self.inversions += 1
            return invert(*args, **options)

        def counted_generate(*args: Any, **options: Any) -> Any:
            self.pictures += 1
            return generate(*args, **options)

        monkeypatch.setattr(Backbone, "invert", counted_invert)
        monkeypatch.setattr(Backbone, "generate", counted_generate)


def test_scores_are_those_of_the_averaging_that_is_named(images: torch.Tensor) -> None:
    report = run(images, seeds=(0, 1))
    (result,) = report.runs
    features = Colours()
    made = [
        torch.stack([c.picture for c in result.cells if c.ask == ask and c.picture is not None]) for ask in range(2)
    ]
    assert [len(each) for each in made] == [2, 2]
    embedded = [features.embed(each) for each in made]
    scores = report.scores()["word"]
    expected = concept_fidelity(embedded, features.embed(report.references))
    assert scores["identity"].value == pytest.approx(expected, abs=1e-6)
    texts = features.text_features(["a person wearing sunglasses", "a person smiling"])
    assert scores["clip-t"].value == pytest.approx(prompt_following(embedded, texts), abs=1e-6)
    assert scores["attributes"].value == 0.5  # sunglasses are seen, a smile is not
    assert scores["identity"].extractor == "fake/who"
    assert scores["identity"].averaging == "references > images > prompts"


def test_what_a_concept_reproduces_is_scored_against_the_pictures(images: torch.Tensor) -> None:
    report = run(images, runs=[gan_run(), word_run()])
    gan, word = report.runs
    assert gan.reproduced is not None and gan.reproduced.shape == (2, 3, 32, 32)
    assert gan.reproduced_scores["lpips"] == pytest.approx(float((gan.reproduced - images).abs().mean()), abs=1e-6)
    mse = (gan.reproduced - images).square().flatten(1).mean(1)
    assert gan.reproduced_scores["psnr"] == pytest.approx(float((-10 * mse.log10()).mean()), abs=1e-4)
    assert word.reproduced is None and not word.reproduced_scores


def test_nothing_finished_is_computed_again(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Counting(monkeypatch)
    first = run(images, tmp_path)
    assert (count.inversions, count.pictures) == (1, 2)
    again = run(images, tmp_path)
    assert (count.inversions, count.pictures) == (1, 2)
    assert again.scores() == first.scores()
    for one, other in zip(first.runs[0].cells, again.runs[0].cells, strict=True):
        assert one.picture is not None and other.picture is not None
        assert torch.equal(one.picture, other.picture)
        assert one.seconds == other.seconds

    run(images, tmp_path, prompts=[*PROMPTS, "{} in a hat"])  # one prompt more: one picture more
    assert (count.inversions, count.pictures) == (1, 3)
    run(images, tmp_path, seeds=(0, 1))
    assert (count.inversions, count.pictures) == (1, 5)


@pytest.mark.parametrize(
    ("change", "inversions", "made"),
    [
        ({"seed": 1}, 1, 2),
        ({"category": "thing"}, 1, 2),
        ({"runs": [Run(tiny("stable-diffusion"), "textual-inversion", 2, {"steps": 2}, "word")]}, 1, 2),
        ({"runs": [Run(tiny("stable-diffusion"), "textual-inversion", 1, {"steps": 3}, "word")]}, 0, 2),
        ({"resume": False}, 1, 2),
    ],
)
def test_what_matters_is_in_the_key(
    images: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    inversions: int,
    made: int,
) -> None:
    run(images, tmp_path)
    count = Counting(monkeypatch)
    run(images, tmp_path, **change)
    assert (count.inversions, count.pictures) == (inversions, made)
    run(1 - images, tmp_path, **change)  # other pictures: always again
    assert (count.inversions, count.pictures) == (inversions + 1, made + 2)


def test_other_extractors_score_the_same_pictures_again(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, tmp_path)
    count = Counting(monkeypatch)
    report = run(images, tmp_path, scorers=Scorers(identity=Colours(), names={"identity": "other"}, notes=("gone",)))
    assert (count.inversions, count.pictures) == (0, 0)
    assert set(report.scores()["word"]) == {"identity"}
    assert report.scores()["word"]["identity"].extractor == "other"
    assert report.notes == ("gone",)


def test_a_damaged_cell_is_computed_again(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, tmp_path)
    cells = sorted((tmp_path / "cells" / "word").glob("*.png"))
    cells[0].write_bytes(cells[0].read_bytes()[:50])
    cells[1].with_suffix(".json").write_text("{")
    count = Counting(monkeypatch)
    run(images, tmp_path)
    assert (count.inversions, count.pictures) == (0, 2)


def test_an_interrupted_comparison_goes_on(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run(images, runs=[word_run(), word_run("second")])
    generate, calls = Backbone.generate, 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(Backbone, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path, runs=[word_run(), word_run("second")])
    report = run(images, tmp_path, runs=[word_run(), word_run("second")])
    assert calls == 5  # one was finished before, one was broken off
    assert report.scores() == unbroken.scores()


def test_an_interrupted_inversion_goes_on_where_it_was(images: torch.Tensor, tmp_path: Path) -> None:
    class Stop:
        def start(self, label: str, total: int) -> None: ...

        def finish(self) -> None: ...

        def advance(self, done: int, *, loss: float | None = None) -> None:
            if done == 2:
                raise KeyboardInterrupt

    long = Run(tiny("stable-diffusion"), "textual-inversion", steps=4, sampling={"steps": 2}, label="long")
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path, runs=[long], progress=Stop())
    assert list((tmp_path / "checkpoints").rglob("*.pt"))
    report = run(images, tmp_path, runs=[long])
    assert report.scores() == run(images, runs=[long]).scores()
    assert not (tmp_path / "checkpoints").exists()


def test_one_failed_run_does_not_lose_the_others(images: torch.Tensor, tmp_path: Path) -> None:
    broken = Run(tiny("stable-diffusion"), "textual-inversion", steps=1, sampling={"magic": 2}, label="broken")
    absent = Run("no/where.pkl", "pti", label="absent")
    report = run(images, tmp_path, runs=[absent, broken, word_run()])
    no_file, bad, good = report.runs
    assert "no/where.pkl" in no_file.error and no_file.concept is None
    assert "magic" in bad.error and bad.concept is not None
    assert not good.error and len(report.scores()["word"]) == 4
    text = report.save(tmp_path).read_text(encoding="utf-8")
    assert "no/where.pkl" in text and "magic" in text


def test_when_every_run_fails_the_reasons_are_told(images: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"where\.pkl"):
        run(images, runs=[Run("no/where.pkl", "pti")])


def test_the_baseline_has_the_category_in_place_of_the_concept(images: torch.Tensor) -> None:
    backbone = tiny("stable-diffusion")
    report = run(images, runs=[Run(backbone, "category", sampling={"steps": 2}), Run(tiny("stylegan"), "category")])
    words, gan = report.runs
    alone = backbone.generate(prompt="a person wearing sunglasses", n=1, sampling={"steps": 2}, output="pt")
    assert words.cells[0].picture is not None
    assert torch.allclose(words.cells[0].picture, alone[0], atol=0.5 / 255 + 1e-6)
    assert words.is_baseline and words.concept is None and not words.stages
    # A generator that reads no prompts draws what it draws.
    assert gan.cells[0].picture is not None and gan.cells[1].picture is not None
    assert torch.equal(gan.cells[0].picture, gan.cells[1].picture)


def test_two_comparisons_give_the_same_bytes(images: torch.Tensor, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(images, tmp_path / name).save(tmp_path / name)
    for path in ("concepts/word.safetensors", "grid.png"):
        if path.endswith(".png"):
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    first, second = (unified.Concept.load(tmp_path / n / "concepts" / "word.safetensors") for n in ("one", "two"))
    for a, b in zip(first.codes, second.codes, strict=True):
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_a_person_of_the_benchmark_by_name() -> None:
    report = run("avatarbench/person-03", prompts=None, category="", runs=[word_run()])
    assert report.category == "person" and report.references.shape == (5, 3, 64, 64)
    assert len(report.asks) == 6 and report.concept_title == "avatarbench/person-03"
    with pytest.raises(UserError, match=r"avatarbench/person-30"):
        run("avatarbench/person-31")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": []}, "at least one"),
        ({"runs": ["avatars/stylegan2:ptii"]}, "nearest: pti"),
        ({"runs": ["avatars/stylegan2:textual-inversion"]}, "Recipes that do"),
        ({"runs": [":pti"]}, "names no model"),
        ({"runs": [word_run(), word_run()]}, "labels"),
        ({"prompts": ["a portrait"]}, "<me>"),
        ({"seeds": ()}, "seed"),
        ({"seeds": (1, 1)}, "once"),
        ({"category": "", "runs": [Run(tiny("stable-diffusion"), "category")]}, "category"),
        ({"name": " "}, "placeholder"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_run_as_written_is_refused_before_any_work(
    images: torch.Tensor, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(images, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_steps_for_all_leave_recipes_alone_that_have_none_or_set_their_own(images: torch.Tensor) -> None:
    runs = [Run(tiny("emu3"), "tokenize"), gan_run(), Run(tiny("stylegan"), "pti", label="pti")]
    tokens, gan, pti = run(images, runs=runs, prompts=["{}"], steps=3).runs
    assert tokens.concept is not None
    assert [stage["steps"] for stage in gan.stages] == [2]
    assert [stage["steps"] for stage in pti.stages] == [3, 3]


def test_files_of_the_report(images: torch.Tensor, tmp_path: Path) -> None:
    report = run(images, tmp_path, runs=[gan_run(), word_run()], seeds=(0, 7))
    assert report.save(tmp_path) == tmp_path / "report.html"
    lines = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert len(lines) == 2 * 2 * 2
    assert lines[-1]["run"] == "word" and lines[-1]["seed"] == "7" and lines[-1]["requested"] == "mouth=smile"
    cell = report.runs[1].cells[-1]
    assert float(lines[-1]["identity (fake/who)"]) == pytest.approx(cell.scores["identity"], rel=1e-5)
    runs = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    mean = report.scores()["word"]["identity"]
    assert float(runs[1][mean.column]) == pytest.approx(mean.value, rel=1e-5)
    assert float(runs[0]["inversion seconds"]) > 0
    assert read_images(tmp_path / "grid.png").shape[0] == 1
    assert unified.Concept.load(tmp_path / "concepts" / "word.safetensors").name == "<me>"
    stored = json.loads(next((tmp_path / "cells" / "word").glob("*.json")).read_text())
    assert {"prompt", "seed", "seconds", "peak_mebibytes", "scores", "key"} <= set(stored)


def test_nothing_of_a_report_is_written_when_the_disk_is_full(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(images)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unified.files.os.fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        report.save(tmp_path / "report")
    assert [path for path in (tmp_path / "report").rglob("*") if path.is_file()] == []
