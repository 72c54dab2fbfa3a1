"""Scores of several runs in one table, and in files; what was measured in different ways is never put in one column."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unified.errors import UserError
from unified.files import write_file
from unified.metrics.bootstrap import Interval
from unified.metrics.score import Score


@dataclass(frozen=True)
class Measured:
    """A score; its interval over subjects, where there are at least two; and of how many it is the mean."""

    score: Score
    interval: Interval | None = None
    count: int = 1

    def __str__(self) -> str:
        value = f"{self.score.value:.4f}"
        return value if self.interval is None else f"{value} [{self.interval.low:.4f}, {self.interval.high:.4f}]"


@dataclass(frozen=True)
class Result:
    """One run under one protocol: its scores by metric."""

    run: str
    protocol: str
    scores: Mapping[str, Measured]


@dataclass(frozen=True)
class Table:
    """columns: metric -> how it was measured; rows: run -> metric -> text."""

    columns: Mapping[str, str]
    rows: Sequence[tuple[str, Mapping[str, str]]]


def tabulate(results: Sequence[Result]) -> Table:
    """One row for each result.

    Raises UserError if two results have a metric of one name that was measured in different ways (other
    extractor, crop, averaging, protocol or number of subjects): give them tables of their own.
    """
    first: dict[str, tuple[Result, Measured]] = {}
    for result in results:
        for metric, found in result.scores.items():
            before, known = first.setdefault(metric, (result, found))
            if not known.score.comparable_with(found.score) or before.protocol != result.protocol:
                raise UserError(
                    f"{metric} of {before.run} is {before.protocol}: {known.score.column}, and of {result.run}"
                    f" {result.protocol}: {found.score.column}; they measure different things, so give each a"
                    " table of its own."
                )
            if known.count != found.count:
                raise UserError(
                    f"{metric} of {before.run} is over {known.count} and of {result.run} over {found.count} subjects:"
                    " evaluate both on the same."
                )
    columns = {metric: found.score.column for metric, (_, found) in first.items()}
    rows = [(result.run, {metric: str(found) for metric, found in result.scores.items()}) for result in results]
    return Table(columns, rows)


def save_results(results: Sequence[Result], path: str | Path) -> Path:
    """Write the results as JSON, to be put into one table with others later."""
    return write_file(path, (json.dumps([dataclasses.asdict(r) for r in results], indent=1) + "\n").encode())


def load_results(path: str | Path) -> list[Result]:
    """Read what `save_results` wrote. Raises UserError if it is no such file."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            Result(row["run"], row["protocol"], {name: _measured(each) for name, each in row["scores"].items()})
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no results of `unified evaluate` ({error}).") from error


def _measured(row: Mapping[str, object]) -> Measured:
    interval = row["interval"]
    return Measured(
        Score(**row["score"]),  # type: ignore[arg-type]
        None if interval is None else Interval(**interval),  # type: ignore[arg-type]
        int(str(row["count"])),
    )
