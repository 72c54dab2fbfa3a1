"""report.html: one file without anything from outside, for a laptop, a phone, day and night."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from torch import Tensor

from unified.comparison import chart, failures, timeline
from unified.comparison.curve import curve
from unified.comparison.result import Cell, RunResult, present_metrics
from unified.comparison.scorers import METRICS, Metric
from unified.comparison.store import png

if TYPE_CHECKING:
    from unified.comparison.report import Report

TEMPLATES = Path(__file__).parent / "templates"
_CRISP = 128  # pixels: up to this side, pixels are shown as squares

_environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class _Column:
    """A run as the page shows it."""

    run: RunResult
    colour: str
    heading: str
    below: str
    label: str  # in charts


def page(report: Report) -> str:
    """The whole page."""
    columns = [_column(run, number) for number, run in enumerate(report.runs)]
    metrics = present_metrics(report.runs)
    seeds = report.seeds
    return _environment.get_template("report.html").render(
        report=report,
        columns=columns,
        rows=[
            {"ask": ask, "seed": seed, "first": seed == seeds[0], "cells": _row(report.runs, number, seed)}
            for number, ask in enumerate(report.asks)
            for seed in seeds
        ],
        references=[picture(image) for image in report.references],
        reproduced=[
            None if run.reproduced is None else [picture(image) for image in run.reproduced] for run in report.runs
        ],
        metrics=metrics,
        best={metric.key: _best(report.runs, metric) for metric in metrics},
        charts=_tradeoffs(report, columns),
        times=_times(columns),
        curves=_curves(columns),
        galleries=_galleries(report, columns),
        of_one_run=failures.OF_ONE_RUN,
        errors=failures.errors(report.runs),
        picture=picture,
        crisp=report.references.shape[-1] <= _CRISP,
        all_metrics={metric.key: metric for metric in METRICS},
    )


def picture(image: Tensor) -> str:
    """[3,H,W] in 0..1 as a data address."""
    return "data:image/png;base64," + base64.b64encode(png(image[None])).decode()


def _column(run: RunResult, number: int) -> _Column:
    model, colon, recipe = run.title.rpartition(":")
    heading, below = (recipe, model) if colon else (run.title, run.recipe)
    short = model.rpartition("/")[2]
    label = f"{short}: {recipe}" if colon else run.title
    return _Column(run, chart.colour(number), heading, below, label)


def _row(runs: Sequence[RunResult], ask: int, seed: int) -> list[Cell | None]:
    return [next((c for c in run.cells if c.ask == ask and c.seed == seed), None) for run in runs]


def _best(runs: Sequence[RunResult], metric: Metric) -> float | None:
    values = [value for run in runs if (value := run.value(metric.key)) is not None]
    if len(values) < 2:
        return None
    return max(values) if metric.higher else min(values)


def _tradeoffs(report: Report, columns: Sequence[_Column]) -> list[dict[str, Any]]:
    """Fidelity against each measure of prompt following that there is, wide and narrow."""
    fidelity = _fidelity(columns)
    if fidelity is None:
        return []
    found = []
    for following in METRICS[2:4]:
        points = []
        for column in columns:
            x, y = column.run.value(following.key), column.run.value(fidelity.key)
            if x is None or y is None:
                continue
            points.append(
                chart.Point(
                    label=column.label,
                    x=x,
                    y=y,
                    x_bar=_bar(column.run, following.key),
                    y_bar=_bar(column.run, fidelity.key),
                    colour=column.colour,
                    hollow=column.run.is_baseline,
                )
            )
        if not points:
            continue
        titles = {
            "x_title": f"Prompt following: {following.title} ({report.scorers.extractor(following.key)})",
            "y_title": f"{fidelity.title} ({report.scorers.extractor(fidelity.key)})",
            "level": report.among_references.get(fidelity.key),
            "level_label": "reference pictures to each other",
        }
        found.append(
            {
                "wide": Markup(chart.tradeoff(points, width=540, height=380, **titles)),  # type: ignore[arg-type]
                "narrow": Markup(chart.tradeoff(_shortened(points), width=356, height=340, **titles)),  # type: ignore[arg-type]
                "bars": any(p.x_bar or p.y_bar for p in points),
            }
        )
    return found


def _bar(run: RunResult, metric: str) -> tuple[float, float] | None:
    interval = run.interval(metric)
    return None if interval is None else (interval.low, interval.high)


def _shortened(points: Sequence[chart.Point]) -> list[chart.Point]:
    """The points with the recipe alone as their label, where that is enough to tell them apart."""
    recipes = [point.label.rpartition(": ")[2] for point in points]
    return [
        dataclasses.replace(point, label=recipe) if recipes.count(recipe) == 1 else point
        for point, recipe in zip(points, recipes, strict=True)
    ]


def _times(columns: Sequence[_Column]) -> dict[str, Any]:
    """Every run's stages and pictures on one scale of time, and one of memory."""
    spent = [(column, parts) for column in columns if (parts := timeline.pieces(column.run))]
    longest = max((parts[-1].end for _, parts in spent), default=0.0)
    most = max((part.mebibytes for _, parts in spent for part in parts), default=0.0)
    return {
        "axis": timeline.axis(longest),
        "most": most,
        "rows": [
            {
                "column": column,
                "spent": timeline.duration(parts[-1].end),
                "peak": max(part.mebibytes for part in parts),
                "legend": timeline.legend(parts),
                "svg": Markup(timeline.drawing(parts, longest=longest, most=most, colour=column.colour)),
            }
            for column, parts in spent
        ],
    }


def _curves(columns: Sequence[_Column]) -> list[dict[str, Any]]:
    found = []
    for column in columns:
        for number, stage in enumerate(column.run.stages, 1):
            losses = [float(value) for value in stage.get("losses", [])]
            if len(losses) > 1:
                spaces, steps = timeline.spaces_of(stage), stage.get("steps", len(losses))
                found.append(
                    {
                        "column": column,
                        "stage": f"stage {number}: {spaces}" if len(column.run.stages) > 1 else spaces,
                        "first": losses[0],
                        "last": losses[-1],
                        "steps": steps,
                        "stopped": stage.get("stopped", ""),
                        "svg": Markup(curve(losses, colour=column.colour, steps=steps)),
                    }
                )
    return found


def _galleries(report: Report, columns: Sequence[_Column]) -> list[dict[str, Any]]:
    """The worst pictures by fidelity to the concept and by what was asked for, where these were measured."""
    fidelity = _fidelity(columns)
    found: list[dict[str, Any]] = []
    if fidelity is not None:
        title = f"Least like the reference pictures: lowest {fidelity.title}"
        found.append({"title": title, "failures": failures.least_alike(report.runs, fidelity.key)})
    then_by = "" if fidelity is None else fidelity.key
    missed = failures.least_followed(report.runs, then_by=then_by)
    if missed:
        found.append({"title": "Asked for and not seen: lowest Attributes", "failures": missed})
    return [gallery for gallery in found if gallery["failures"]]


def _fidelity(columns: Sequence[_Column]) -> Metric | None:
    """The measure of likeness that there is: identity before CLIP-I."""
    return next((m for m in METRICS[:2] if any(c.run.value(m.key) is not None for c in columns)), None)
