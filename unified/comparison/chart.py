"""Charts as SVG text, drawn in the colours of the page that holds them (classes, not fixed colours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: Categorical colours that are told apart on white and on black.
COLOURS = ("#4269d0", "#e08e0b", "#e8553f", "#2f9e8f", "#3ca951", "#d9578f", "#8f5be0", "#5b9ad9", "#9c6b4e", "#80868b")
_FONT = 12.0  # pixels
_LETTER = 6.7  # width of a letter at that size, rather too wide than too narrow


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


@dataclass(frozen=True)
class Point:
    """A labelled point with the ends of its error bars (None: no bar). hollow: a baseline."""

    label: str
    x: float
    y: float
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None
    colour: str = COLOURS[0]
    hollow: bool = False


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A range around the values with some air, never of no width."""
    low, high = min(values), max(values)
    air = max((high - low) * 0.18, 0.02)
    return low - air, high + air


def tradeoff(
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    level: float | None = None,
    level_label: str = "",
    width: int = 620,
    height: int = 400,
) -> str:
    """Points with error bars and labels that do not overlap; `level`: a dashed line at a height."""
    left, right, top, bottom = 58.0, 16.0, 16.0, 50.0
    xs = [x for p in points for x in (p.x, *(p.x_bar or ()))]
    ys = [y for p in points for y in (p.y, *(p.y_bar or ()))] + ([] if level is None else [level])
    (x_low, x_high), (y_low, y_high) = _limits(xs), _limits(ys)
    frame = _Box(left, top, width - right, height - bottom)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            frame.left + (x - x_low) / (x_high - x_low) * (frame.right - frame.left),
            frame.bottom - (y - y_low) / (y_high - y_low) * (frame.bottom - frame.top),
        )

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" role="img"'
        f' aria-label="{escape(y_title, quote=True)} against {escape(x_title, quote=True)}">'
    ]
    columns = max(3, round((frame.right - frame.left) / 90))
    for value in ticks(x_low, x_high, columns):
        x, _ = place(value, y_low)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:.0f}" y2="{frame.bottom:.0f}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 17:.0f}" text-anchor="middle">{value:g}</text>'
        )
    for value in ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<line class="rule" x1="{frame.left:.0f}" x2="{frame.right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{frame.left - 7:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle_x, middle_y = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle_x:.0f}" y="{height - 10}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(14 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    taken: list[_Box] = []
    lines: list[_Box] = []
    if level is not None:
        _, y = place(x_low, level)
        parts.append(f'<line class="level" x1="{frame.left:.0f}" x2="{frame.right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{frame.left + 6:.0f}" y="{y - 5:.1f}">{escape(level_label)}</text>')
        taken.append(_Box(frame.left, y - _FONT - 5, frame.left + 6 + _LETTER * len(level_label), y + 1))
    for p in points:
        x, y = place(p.x, p.y)
        (x_from, x_to), (y_from, y_to) = p.x_bar or (p.x, p.x), p.y_bar or (p.y, p.y)
        (x1, y1), (x2, y2) = place(x_from, y_from), place(x_to, y_to)
        taken.append(_Box(x - 8, y - 8, x + 8, y + 8))
        lines += [_Box(x1, y - 2, x2, y + 2), _Box(x - 2, y2, x + 2, y1)]
        if p.x_bar:
            parts.append(
                f'<line class="bar" stroke="{p.colour}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        if p.y_bar:
            parts.append(
                f'<line class="bar" stroke="{p.colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
            )
    for p in points:
        x, y = place(p.x, p.y)
        style = f'class="hollow" style="--colour: {p.colour}"' if p.hollow else f'fill="{p.colour}"'
        parts.append(f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="5.5"><title>{escape(p.label)}</title></circle>')
    for p in points:
        px, py = place(p.x, p.y)
        label = shortened(p.label, round(0.9 * (frame.right - frame.left) / _LETTER))
        box, anchor = _label_box(px, py, _LETTER * len(label), frame, taken, lines)
        taken.append(box)
        x = {"start": box.left, "end": box.right, "middle": (box.left + box.right) / 2}[anchor]
        near = min(max(px, box.left), box.right), min(max(py, box.top + 2), box.bottom - 2)
        if math.dist(near, (px, py)) > 13:
            parts.append(
                f'<line class="leader" stroke="{p.colour}" x1="{px:.1f}" y1="{py:.1f}"'
                f' x2="{near[0]:.1f}" y2="{near[1]:.1f}"/>'
            )
        parts.append(
            f'<text class="label" x="{x:.1f}" y="{box.bottom - 3.5:.1f}" text-anchor="{anchor}" fill="{p.colour}">'
            f"{escape(label)}</text>"
        )
    return "".join([*parts, "</svg>"])


def shortened(text: str, most: int) -> str:
    """The text, or its beginning with an ellipsis, in at most so many letters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _label_box(
    x: float, y: float, width: float, frame: _Box, taken: Sequence[_Box], lines: Sequence[_Box]
) -> tuple[_Box, str]:
    """Where a label beside (x, y) covers the least of what is there and stays in the frame.

    Points and labels in `taken` weigh most, error bars in `lines` less: they are still seen on both sides.
    """
    height = _FONT + 3
    best: tuple[float, _Box, str] | None = None
    for distance in (9.0, 16.0, 26.0, 38.0, 52.0):
        places = [
            (_Box(x + distance, y - height / 2, x + distance + width, y + height / 2), "start"),
            (_Box(x - distance - width, y - height / 2, x - distance, y + height / 2), "end"),
            (_Box(x - width / 2, y - distance - height, x + width / 2, y - distance), "middle"),
            (_Box(x - width / 2, y + distance, x + width / 2, y + distance + height), "middle"),
            (_Box(x + 7, y - distance - height, x + 7 + width, y - distance), "start"),
            (_Box(x + 7, y + distance, x + 7 + width, y + distance + height), "start"),
            (_Box(x - 7 - width, y - distance - height, x - 7, y - distance), "end"),
            (_Box(x - 7 - width, y + distance, x - 7, y + distance + height), "end"),
        ]
        for order, (box, anchor) in enumerate(places):
            outside = box.area - box.overlap(frame)
            covered = 10 * sum(box.overlap(other) for other in taken) + sum(box.overlap(line) for line in lines)
            cost = covered + 50 * outside + 2 * distance + 0.1 * order
            if best is None or cost < best[0]:
                best = (cost, box, anchor)
    assert best is not None
    return best[1], best[2]
