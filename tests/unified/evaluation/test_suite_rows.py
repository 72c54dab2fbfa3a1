"""Suites: rows are means over people, and the order is compared with the published one pair by pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import gan
from unified.avatars.benchmark import Person
from unified.contract.recipe import runnable
from unified.errors import UserError
from unified.evaluation.avatarbench import Judges
from unified.evaluation.edits import EditScore
from unified.evaluation.inverted import inverted
from unified.evaluation.suite_rows import Probe, Row, edit_columns, measure, pairs
from unified.evaluation.suites import Published, suites
from unified.metrics.bootstrap import Interval


def row(recipe: str, lpips: float, published: float | None) -> Row:
    known = None if published is None else Published(recipe, lpips=published)
    return Row(recipe, {"lpips": Interval(lpips, lpips, lpips, 0.95)}, 1.0, known)


def test_pairs_are_counted_where_both_are_published() -> None:
    """Published a > b > c in LPIPS (a worst); here b and c have changed places; d is not in the publication."""
    rows = [row("a", 0.5, 0.3), row("b", 0.1, 0.2), row("c", 0.2, 0.1), row("d", 0.9, None)]
    assert pairs(rows) == (3, [("b", "c")])
    assert pairs(list(reversed(rows))) == (3, [("b", "c")])
    assert pairs(rows, score="psnr") == (0, [])


def test_means_of_edits_are_by_person() -> None:
    edits = [
        EditScore("a", "m", "mouth=smile", 1, 1, 0.5, 1),
        EditScore("a", "m", "glasses=none", 0, 0.5, 0.7, 1),
        EditScore("b", "m", "mouth=smile", 1, 1, 0.9, 1),
    ]
    found = edit_columns(edits)
    assert found == {"changed": [0.5, 1.0], "kept": [0.75, 1.0], "identity after": [pytest.approx(0.6), 0.9]}


def test_the_published_rows_name_recipes_that_run() -> None:
    suite = suites.get("gan-inversion")
    assert set(suite.published) <= set(runnable(type(gan.stylegan())))


def people(count: int) -> list[Person]:
    pictures = torch.rand(count, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(1, 32, 32, dtype=torch.bool)
    return [Person(f"person-{i}", each, masks, (), (), (), out_of_domain=False) for i, each in enumerate(pictures)]


class Reads:
    vocabulary = {"glow": ("off", "on")}

    def names(self, images: torch.Tensor) -> list[dict[str, str]]:
        return [{"glow": "off"} for _ in images]


JUDGES = Judges(lambda images: torch.ones(len(images), 1), Reads())  # type: ignore[arg-type]


def test_a_row_is_measured_and_its_concepts_are_kept(tmp_path: Path) -> None:
    """More steps reconstruct better; the second call reads the same concepts."""
    backbone, shown = gan.stylegan(), people(2)
    few, many = (
        measure(backbone, "image2stylegan", shown, JUDGES, Probe([], []), published=None, folder=tmp_path, steps=steps)
        for steps in (1, 25)
    )
    assert many.scores["lpips"].mean < few.scores["lpips"].mean
    assert "changed" not in many.scores
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 4
    before = [file.stat().st_mtime_ns for file in files]
    said: list[str] = []
    inverted(backbone, "image2stylegan", shown, tmp_path, steps=25, say=said.append)
    assert [file.stat().st_mtime_ns for file in files] == before and not said


def test_a_recipe_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="e4e"):
        measure(gan.stylegan(), "e4e", people(2), JUDGES, Probe([], []), published=None, folder=tmp_path)
