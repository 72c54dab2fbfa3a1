"""What every run spent: its stages and pictures one after the other over time, and the memory each took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from unified.comparison.chart import ticks
from unified.comparison.result import RunResult

_WIDTH, _BAR, _GAP, _MEMORY = 1000.0, 20.0, 4.0, 30.0  # of the drawing, which is stretched to the page's width
_LEAST = 1.5  # so that what took next to no time is still seen


@dataclass(frozen=True)
class Piece:
    """A stage or a picture of a run. begin, seconds: from the run's first stage on. mebibytes: the most in use."""

    name: str
    begin: float
    seconds: float
    mebibytes: float
    is_picture: bool = False

    @property
    def end(self) -> float:
        return self.begin + self.seconds


def spaces_of(stage: Any) -> str:
    """The spaces of a stage of a concept's log, as in "w & noise"."""
    return " & ".join(space["name"] for space in stage["spaces"])


def pieces(run: RunResult) -> list[Piece]:
    """The run's stages, then its pictures, without the time in between (loading the model, scoring)."""
    found: list[Piece] = []
    now = 0.0
    for stage in run.stages:
        name = f"{spaces_of(stage)} ({stage['method']['name']})"
        found.append(Piece(name, now, float(stage["seconds"]), float(stage["peak_mebibytes"])))
        now = found[-1].end
    made = [cell for cell in run.cells if cell.picture is not None]
    for number, cell in enumerate(made, 1):
        found.append(Piece(f"picture {number} of {len(made)}", now, cell.seconds, cell.peak_mebibytes, True))
        now = found[-1].end
    return found


def duration(seconds: float) -> str:
    """The time as a person says it: "0.21 s", "24.4 s", "9 min 3 s", "2 h 5 min"."""
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def axis(longest: float) -> list[tuple[float, str]]:
    """(percent of the width, label) of round times from 0 to `longest` seconds."""
    if longest <= 0:
        return []
    unit, name = (60.0, " min") if longest >= 300 else (1.0, " s")
    return [(100 * value * unit / longest, f"{value:g}{name}") for value in ticks(0.0, longest / unit, 4)]


def shades(parts: Sequence[Piece]) -> list[float]:
    """The opacity of each piece: stages become paler one by one, pictures are the palest."""
    stages = sum(not part.is_picture for part in parts)
    return [0.4 if part.is_picture else 1 - 0.4 * number / max(stages, 1) for number, part in enumerate(parts)]


def legend(parts: Sequence[Piece]) -> list[tuple[float, str]]:
    """(opacity, text) of each stage, and of all pictures together."""
    found = [
        (shade, f"{part.name} {duration(part.seconds)}")
        for part, shade in zip(parts, shades(parts), strict=True)
        if not part.is_picture
    ]
    made = [part.seconds for part in parts if part.is_picture]
    if made:
        each = f", {duration(sum(made) / len(made))} each" if len(made) > 1 else ""
        found.append((0.4, f"{len(made)} picture{'s' if len(made) > 1 else ''} {duration(sum(made))}{each}"))
    return found


def drawing(parts: Sequence[Piece], *, longest: float, most: float, colour: str) -> str:
    """SVG text: the pieces as a bar, and below it their peak memory as steps from 0 to `most` MiB.

    longest: seconds that the whole width stands for.
    """
    height = _BAR + _GAP + _MEMORY
    base = height
    shapes = []
    for part, shade in zip(parts, shades(parts), strict=True):
        left = _WIDTH * part.begin / (longest or 1.0)
        width = max(_WIDTH * part.seconds / (longest or 1.0) - 1.0, _LEAST)
        level = _MEMORY * part.mebibytes / (most or 1.0)
        title = f"<title>{escape(part.name)}: {duration(part.seconds)}, {part.mebibytes:.0f} MiB</title>"
        shapes.append(
            f'<rect x="{left:.2f}" y="0" width="{width:.2f}" height="{_BAR:.0f}" fill="{colour}"'
            f' opacity="{shade:.2f}">{title}</rect>'
            f'<rect class="memory" x="{left:.2f}" y="{base - level:.2f}" width="{width:.2f}" height="{level:.2f}">'
            f"{title}</rect>"
        )
    spent = duration(parts[-1].end if parts else 0.0)
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" preserveAspectRatio="none" role="img"'
        f' aria-label="{spent} in all">{"".join(shapes)}</svg>'
    )
