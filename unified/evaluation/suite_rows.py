"""Measuring a suite: every recipe on the held-out people, and whether the order is the published one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unified.avatars.benchmark import Person
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.directions_hook import ValueEdit
from unified.errors import UserError
from unified.evaluation.avatarbench import Judges, score_reconstruction
from unified.evaluation.edits import EditScore, chosen_edits, evaluate_edits
from unified.evaluation.inverted import inverted
from unified.evaluation.suites import Published, Suite
from unified.metrics.bootstrap import Interval, mean_interval


@dataclass(frozen=True)
class Row:
    """Scores of one recipe over people.

    scores: "lpips", "psnr", "identity"; of the edits "changed", "kept" and "identity after" (see
    `unified.evaluation.edits`). seconds: of the inversion of one picture, its share where several went together.
    """

    recipe: str
    scores: Mapping[str, Interval]
    seconds: float
    published: Published | None = None


@dataclass(frozen=True)
class Probe:
    """What editability is read from: edits, and those towards the values that they lead away from."""

    edits: Sequence[ValueEdit]
    opposed: Sequence[ValueEdit]

    @staticmethod
    def of(suite: Suite, backbone: Backbone, judges: Judges) -> Probe:
        """Raises UserError if the backbone has no such edits."""
        vocabulary = judges.attributes.vocabulary
        edits = chosen_edits(backbone, suite.edits, vocabulary, methods=suite.directions)
        attributes = sorted({edit.value.partition("=")[0] for edit in edits})
        return Probe(edits, chosen_edits(backbone, attributes, vocabulary, methods=suite.directions))


def measure(
    backbone: Backbone,
    recipe: str,
    people: Sequence[Person],
    judges: Judges,
    probe: Probe,
    *,
    published: Published | None,
    folder: Path,
    steps: int | None = None,
    together: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Row:
    """One row: the first picture of each person inverted, given back, and edited.

    Raises UserError if the recipe's concepts hold no pictures to give back, or if it cannot run (its encoder was
    not built). Concepts that take no named edit have no scores of edits.
    """
    progress = progress or Silent()
    concepts = inverted(
        backbone, recipe, people, folder, steps=steps, together=together, seed=seed, progress=progress, say=say
    )
    if not all(concept.gives_back for concept in concepts):
        raise UserError(f"The recipe {recipe!r} keeps no picture to give back.")
    originals = torch.cat([backbone.reference(person.images[:1]).images for person in people])
    columns: dict[str, list[float]] = {"lpips": [], "psnr": [], "identity": []}
    for concept, original in zip(concepts, originals, strict=True):
        found = score_reconstruction(backbone.generate(concept, output="pt", progress=Silent()), original[None], judges)
        for name, key in (("lpips", "lpips-alex"), ("psnr", "psnr"), ("identity", "identity-rec")):
            columns[name].append(found[key])
    try:
        edits = evaluate_edits(
            backbone, concepts, originals, probe.edits, judges, opposed=probe.opposed, seed=seed, progress=progress
        )
    except UserError as error:
        say(f"{recipe}: not edited: {error}")
        edits = []
    columns |= edit_columns(edits)
    scores = {name: mean_interval(values) for name, values in columns.items() if len(values) > 1}
    return Row(recipe, scores, seconds(concepts), published)


def edit_columns(edits: Sequence[EditScore]) -> dict[str, list[float]]:
    """Means of each person: {"changed": [...], "kept": [...], "identity after": [...]}."""
    people = list(dict.fromkeys(edit.person for edit in edits))
    own = [[edit for edit in edits if edit.person == person] for person in people]
    return {
        name: [sum(getattr(edit, attribute) for edit in some) / len(some) for some in own]
        for name, attribute in (("changed", "changed"), ("kept", "kept"), ("identity after", "identity"))
    }


def seconds(concepts: Sequence[Concept]) -> float:
    """Of the inversion, a concept's share; from what the concepts say of themselves."""
    shares = [stage["seconds"] / stage["concepts_in_batch"] for concept in concepts for stage in concept.meta["stages"]]
    return sum(shares) / len(concepts)


def pairs(rows: Sequence[Row], *, score: str = "lpips") -> tuple[int, list[tuple[str, str]]]:
    """(how many pairs of rows the publication orders, those of them that stand the other way round here).

    A pair is (worse, better) as published. score: "lpips", where less is better, or "psnr" or "identity".
    """
    known = [(row, getattr(row.published, score)) for row in rows if row.published and score in row.scores]
    better = (lambda a, b: a < b) if score == "lpips" else (lambda a, b: a > b)
    count, turned = 0, []
    for (first, one), (second, other) in itertools.combinations([each for each in known if each[1] is not None], 2):
        if one == other:
            continue
        count += 1
        worse, best = (second, first) if better(one, other) else (first, second)
        if not better(best.scores[score].mean, worse.scores[score].mean):
            turned.append((worse.recipe, best.recipe))
    return count, turned
