"""The side-by-side grid of a comparison as far as it is: read from what the comparison keeps on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.app.html import data_address, render
from unified.comparison.ask import Ask, read_asks
from unified.comparison.run import Run
from unified.comparison.scorers import METRICS


@dataclass(frozen=True)
class Cell:
    """One finished picture: file, (title, value) of its scores, seconds, and what was seen of what was asked."""

    path: Path
    scores: tuple[tuple[str, str], ...]
    seconds: float
    seen: tuple[tuple[str, str, bool], ...]


Cells = Mapping[tuple[str, str, int], Cell]
"""(run's title, prompt, seed) -> cell."""


def cells(work: Path, settings: Mapping[str, Any]) -> Cells:
    """Those that are finished in the comparison's folder."""
    found = {}
    asks = read_asks(settings["prompts"], name=settings["name"], category=settings["category"])
    for title in settings["runs"]:
        for path in sorted((work / "cells" / Run("", label=title).slug).glob("*.json")):
            try:
                about = json.loads(path.read_bytes())
                ask = next(ask for ask in asks if about["prompt"] in (ask.text, ask.neutral, ""))
            except (OSError, ValueError, KeyError, StopIteration):
                continue  # being written, or no cell ("reproduced")
            # A baseline is prompted with the neutral text, which may be that of several prompts only if they are equal.
            found[title, ask.text, int(about["seed"])] = _cell(path, about, ask)
    return found


def _cell(path: Path, about: Mapping[str, Any], ask: Ask) -> Cell:
    titles = {metric.key: metric for metric in METRICS}
    scores = tuple(
        (titles[key].title, f"{value:.{titles[key].digits}f}")
        for key, value in about["scores"].items()
        if key in titles
    )
    wanted = dict(ask.requests)
    seen = tuple((name, value, wanted.get(name) == value) for name, value in about["seen"].items())
    return Cell(path.with_suffix(".png"), scores, float(about["seconds"]), seen)


def grid(settings: Mapping[str, Any], done: Cells, *, running: bool, failed: Mapping[str, str]) -> str:
    """HTML. done: what `cells` found. failed: run's title -> why."""
    columns = [_heading(title) for title in settings["runs"]]
    rows = []
    for text in _texts(settings):
        for seed in settings["seeds"]:
            row: list[dict[str, Any]] = []
            for title in settings["runs"]:
                cell = done.get((title, text, seed))
                source = None if cell is None else data_address(cell.path)
                empty = failed.get(title, "") or ("" if running else "not made")
                row.append({"cell": cell, "source": source, "empty": empty, "title": title})
            rows.append({"prompt": text, "seed": seed, "cells": row})
    return render("grid.html", columns=columns, rows=rows, many_seeds=len(settings["seeds"]) > 1)


def total(settings: Mapping[str, Any]) -> int:
    """How many cells there will be."""
    return len(_texts(settings)) * len(settings["seeds"]) * len(settings["runs"])


def _texts(settings: Mapping[str, Any]) -> list[str]:
    return [prompt.replace("{}", settings["name"]) for prompt in settings["prompts"]]


def _heading(title: str) -> Sequence[str]:
    model, _, recipe = title.rpartition(":")
    return recipe, model
