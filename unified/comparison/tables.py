"""The comparison as tables of text: scores.csv with a line per cell, runs.csv with a line per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from unified.comparison.ask import Ask
from unified.comparison.result import RunResult, present_metrics
from unified.comparison.scorers import CELL_METRICS, Scorers


def cells_csv(runs: Sequence[RunResult], asks: Sequence[Ask], scorers: Scorers) -> bytes:
    """One line per picture; every score's heading names its extractor."""
    metrics = [m for m in present_metrics(runs) if m.key in CELL_METRICS]
    heading = ["run", "prompt", "seed", *(f"{m.key} ({scorers.extractor(m.key)})" for m in metrics)]
    lines: list[list[object]] = [[*heading, "requested", "seen", "seconds", "peak MiB", "error"]]
    for run in runs:
        for cell in run.cells:
            ask = asks[cell.ask]
            values = [cell.scores.get(m.key) for m in metrics]
            requested = "; ".join(f"{attribute}={value}" for attribute, value in ask.requests)
            seen = "; ".join(f"{attribute}={value}" for attribute, value in cell.seen.items())
            made = cell.picture is not None
            cost = [cell.seconds, cell.peak_mebibytes] if made else [None, None]
            numbers = [_number(v) for v in [*values]]
            lines.append([run.title, ask.text, cell.seed, *numbers, requested, seen, *map(_number, cost), cell.error])
    return _csv(lines)


def runs_csv(runs: Sequence[RunResult], scorers: Scorers) -> bytes:
    """One line per run: its means, seconds and memory; headings name extractor and averaging."""
    metrics = present_metrics(runs)
    columns = {m.key: f"{m.key} ({scorers.extractor(m.key)}, mean over {m.over})" for m in metrics}
    heading = ["run", "model", "family", "recipe", *columns.values()]
    lines: list[list[object]] = [
        [*heading, "inversion seconds", "seconds by stage", "seconds per picture", "peak MiB", "error"]
    ]
    for run in runs:
        lines.append(
            [
                run.title,
                run.model,
                run.family,
                run.recipe,
                *(_number(run.value(key)) for key in columns),
                _number(run.inversion_seconds if run.stages else None),
                "; ".join(f"{stage['seconds']:g}" for stage in run.stages),
                _number(run.picture_seconds),
                _number(run.peak_mebibytes),
                run.error,
            ]
        )
    return _csv(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(lines: Sequence[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue().encode()
