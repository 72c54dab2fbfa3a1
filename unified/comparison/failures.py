"""The pictures that a reader should look at first: the worst ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unified.comparison.result import Cell, RunResult

LARGEST = 8  # pictures of a gallery
OF_ONE_RUN = 3  # of them at most: a run that always fails must not hide the others


@dataclass(frozen=True)
class Failure:
    """A picture of a run, by the run's number."""

    run: int
    cell: Cell


def least_alike(runs: Sequence[RunResult], metric: str, *, count: int = LARGEST) -> list[Failure]:
    """The pictures with the lowest `metric`, worst first: at most `count`, half of all, and OF_ONE_RUN of each run.

    Baselines are left out: without a concept they cannot resemble it.
    """
    found = [
        Failure(number, cell)
        for number, run in enumerate(runs)
        if not run.is_baseline
        for cell in run.cells
        if cell.picture is not None and metric in cell.scores
    ]
    found.sort(key=lambda failure: _low(failure.cell.scores[metric]))
    return _of_each(found, min(count, (len(found) + 1) // 2))


def least_followed(runs: Sequence[RunResult], *, then_by: str = "", count: int = LARGEST) -> list[Failure]:
    """The pictures that do not show every requested attribute: most of them missing first, then lowest `then_by`."""
    found = [
        Failure(number, cell)
        for number, run in enumerate(runs)
        for cell in run.cells
        if cell.picture is not None and cell.scores.get("attributes", 1.0) < 1
    ]
    found.sort(key=lambda failure: (failure.cell.scores["attributes"], _low(failure.cell.scores.get(then_by, 0.0))))
    return _of_each(found, count)


def _of_each(found: Sequence[Failure], count: int) -> list[Failure]:
    """The first `count`, leaving out those of a run that has had its share."""
    chosen: list[Failure] = []
    for failure in found:
        if len(chosen) < count and sum(one.run == failure.run for one in chosen) < OF_ONE_RUN:
            chosen.append(failure)
    return chosen


def _low(score: float) -> float:
    """The score, with one that is not a number as the worst of all."""
    return -math.inf if math.isnan(score) else score


def errors(runs: Sequence[RunResult]) -> list[tuple[int, str, list[Cell]]]:
    """(run's number, why, the pictures that are missing for it) where some are; a run's own failure has none."""
    found: list[tuple[int, str, list[Cell]]] = []
    for number, run in enumerate(runs):
        if run.error:
            found.append((number, run.error, []))
            continue
        for reason in dict.fromkeys(cell.error for cell in run.cells if cell.error):
            found.append((number, reason, [cell for cell in run.cells if cell.error == reason]))
    return found
