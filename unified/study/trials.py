"""The trials of a study: which two pictures, on which side, in which order; drawn by a seed, and kept in a key."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from unified.errors import UserError
from unified.study.material import Material


class Question(StrEnum):
    """FIDELITY: which of two pictures shows what the references show. PROMPT: which one fits the text."""

    FIDELITY = "fidelity"
    PROMPT = "prompt"


@dataclass(frozen=True)
class Trial:
    """Two pictures of one prompt and seed, by two runs. `id` says nothing about them."""

    id: str
    question: Question
    text: int
    seed: int
    left: str
    right: str


def draw_trials(material: Material, *, seed: int, limit: int | None = None) -> list[Trial]:
    """Every pair of runs on every prompt, seed of a picture and question, or `limit` of them.

    Fidelity is asked where there are references. Within a pair and question each run is on the left in half of the
    trials (to one, if they are odd), and with a limit every pair and question gets as many (to one). Raises
    UserError if the limit is below the number of pairs and questions.
    """
    rng = random.Random(seed)
    questions = [q for q in Question if q is not Question.FIDELITY or material.references is not None]
    groups: list[list[tuple[Question, int, int, str, str]]] = []
    for question, (a, b) in itertools.product(questions, itertools.combinations(material.runs, 2)):
        places = [
            (text, picture)
            for text, picture in itertools.product(range(len(material.texts)), material.seeds)
            if (a, text, picture) in material.pictures and (b, text, picture) in material.pictures
        ]
        rng.shuffle(places)
        if places:
            groups.append([(question, text, picture, a, b) for text, picture in places])
    if not groups:
        raise UserError("No two runs have a picture of the same prompt and seed, so there is nothing to compare.")
    if limit is not None and limit < len(groups):
        raise UserError(
            f"{limit} trials were asked for; there are {len(groups)} pairs of runs and questions, so give at least"
            " as many, or fewer runs."
        )
    rng.shuffle(groups)  # which of them get one more when the limit does not divide
    taken = _evenly(groups, limit)
    sided = [trial for group in taken for trial in _sided(group, rng)]
    rng.shuffle(sided)
    width = len(str(len(sided)))
    return [Trial(f"t{number:0{width}d}", *rest) for number, rest in enumerate(sided, 1)]


def _evenly(
    groups: Sequence[list[tuple[Question, int, int, str, str]]], limit: int | None
) -> list[list[tuple[Question, int, int, str, str]]]:
    """The first of each group, then the second of each, ... until the limit."""
    order = [(place, number) for number, group in enumerate(groups) for place in range(len(group))]
    kept = sorted(order)[:limit]
    return [[group[place] for place, n in kept if n == number] for number, group in enumerate(groups)]


def _sided(
    group: Sequence[tuple[Question, int, int, str, str]], rng: random.Random
) -> list[tuple[Question, int, int, str, str]]:
    """Each run on the left as often as the other, in random order."""
    flips = [number % 2 == 0 for number in range(len(group))]
    if rng.random() < 0.5:
        flips = [not flip for flip in flips]
    rng.shuffle(flips)
    return [
        (question, text, seed, b, a) if flip else (question, text, seed, a, b)
        for (question, text, seed, a, b), flip in zip(group, flips, strict=True)
    ]
