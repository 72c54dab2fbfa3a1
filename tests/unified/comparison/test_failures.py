"""Which pictures the reader is shown first."""

import torch

from unified.comparison.failures import errors, least_alike, least_followed
from unified.comparison.result import Cell, RunResult

PICTURE = torch.zeros(3, 8, 8)


def cell(ask: int, **scores: float) -> Cell:
    return Cell(ask, 0, PICTURE, scores)


def run(title: str, *cells: Cell, **more: object) -> RunResult:
    return RunResult(title, title, "model", cells=cells, **more)  # type: ignore[arg-type]


def test_least_alike_are_over_all_runs_without_baselines_and_never_more_than_half() -> None:
    one = run("one", cell(0, identity=0.9), cell(1, identity=0.1), cell(2, identity=0.4), cell(3, identity=0.8))
    two = run("two", cell(0, identity=0.2), Cell(1, 0, None, {"identity": -1.0}, error="no"))
    base = run("base", cell(0, identity=-0.5), is_baseline=True)
    found = least_alike([one, base, two], "identity")
    assert [(f.run, f.cell.ask) for f in found] == [(0, 1), (2, 0), (0, 2)]  # of five pictures, three
    assert [f.cell.scores["identity"] for f in least_alike([one], "identity", count=1)] == [0.1]
    assert least_alike([one], "clip-i") == []


def test_a_score_that_is_no_number_is_the_worst() -> None:
    found = least_alike([run("one", cell(0, identity=0.3), cell(1, identity=float("nan")))], "identity")
    assert [f.cell.ask for f in found] == [1]


def test_what_was_asked_for_and_not_seen_comes_with_the_most_missing_first() -> None:
    cells = (
        cell(0, attributes=1.0, identity=0.0),
        cell(1, attributes=0.5, identity=0.1),
        cell(2, attributes=0.0, identity=0.9),
        cell(3, attributes=0.0, identity=0.2),
        cell(4, identity=0.0),
    )
    found = least_followed([run("base", *cells, is_baseline=True)], then_by="identity")
    assert [f.cell.ask for f in found] == [3, 2, 1]


def test_a_run_that_always_fails_does_not_hide_the_others() -> None:
    bad = run("bad", *(cell(ask, attributes=0.0, identity=0.0) for ask in range(9)))
    better = run("better", cell(0, attributes=0.5, identity=0.5))
    for found in (least_followed([bad, better]), least_alike([bad, better], "identity")):
        assert [f.run for f in found] == [0, 0, 0, 1]
    assert len(least_followed([bad] * 4)) == 8


def test_missing_pictures_are_told_by_reason_and_a_failed_run_once() -> None:
    bad = [Cell(0, 0, error="too large"), Cell(1, 0, error="too large"), Cell(2, 0, error="other")]
    some = run("some", cell(3), *bad)
    failed = run("failed", Cell(0, 0, error="gone"), error="gone")
    found = errors([some, run("fine", cell(0)), failed])
    assert [(number, reason, len(cells)) for number, reason, cells in found] == [
        (0, "too large", 2),
        (0, "other", 1),
        (2, "gone", 0),
    ]
