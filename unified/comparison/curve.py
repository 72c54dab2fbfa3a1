"""Loss curves as SVG text, drawn in the colours of the page that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unified.comparison.chart import ticks

_WIDTH, _HEIGHT = 300.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 294.0, 8.0, 128.0  # of the plot in the drawing
_MOST = 400  # points drawn: more are not told apart at this width


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours: 5 % of all to either side, fewer at the ends, as many on both."""
    reach = max(round(0.05 * len(values)), 1)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    found = []
    for place in range(len(values)):
        side = min(reach, place, len(values) - 1 - place)
        found.append((sums[place + side + 1] - sums[place - side]) / (2 * side + 1))
    return found


def _levels(low: float, high: float, logarithmic: bool) -> list[float]:
    """A few values to write at the left: powers of ten and their 2 and 5, or round numbers."""
    if not logarithmic:
        return ticks(low, high, 3)
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [math.log10(f) + p for p in powers for f in factors if low <= math.log10(f) + p <= high]
        if len(found) >= 2:
            return found[:: math.ceil(len(found) / 5)]
    return [low, high]


def curve(values: Sequence[float], *, colour: str, steps: int) -> str:
    """Losses over steps 1 to `steps`: what was measured pale, its running mean on top.

    The scale is logarithmic where all values are positive. Values that are not finite break the line.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    logarithmic = min(finite) > 0
    shown = [(math.log10(v) if logarithmic else v) if math.isfinite(v) else v for v in values]
    known = [value for value in shown if math.isfinite(value)]
    low, high = min(known), max(known)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def place(step: float, value: float) -> str:
        x = _LEFT + step / max(len(values) - 1, 1) * (_RIGHT - _LEFT)
        return f"{x:.1f},{_TOP + (high - value) / (high - low) * (_BOTTOM - _TOP):.1f}"

    def line(heights: Sequence[float], style: str) -> str:
        every = max(len(heights) // _MOST, 1)
        chosen = [i for i in range(len(heights)) if i % every == 0 or i == len(heights) - 1]
        parts: list[list[str]] = [[]]
        for i in chosen:
            if math.isfinite(heights[i]):
                parts[-1].append(place(i, heights[i]))
            elif parts[-1]:
                parts.append([])
        return "".join(f'<polyline class="{style}" stroke="{colour}" points="{" ".join(p)}"/>' for p in parts if p)

    rules = []
    for level in _levels(low, high, logarithmic):
        _, y = place(0, level).split(",")
        label = f"{10**level if logarithmic else level:.3g}"
        rules.append(f'<line class="rule" x1="{_LEFT:.0f}" x2="{_RIGHT:.0f}" y1="{y}" y2="{y}"/>')
        rules.append(
            f'<text class="tick" x="{_LEFT - 5:.0f}" y="{float(y) + 3.5:.1f}" text-anchor="end">{label}</text>'
        )
    ends = (
        f'<text class="tick" x="{_LEFT:.0f}" y="{_HEIGHT - 6:.0f}">step 1</text>'
        f'<text class="tick" x="{_RIGHT:.0f}" y="{_HEIGHT - 6:.0f}" text-anchor="end">{steps}</text>'
    )
    whole = len(finite) == len(values)
    mean = [math.log10(v) if logarithmic else v for v in smoothed(values)] if whole and len(values) >= 20 else []
    lines = line(shown, "raw" if mean else "mean") + (line(mean, "mean") if mean else "")
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img"'
        f' aria-label="loss from {values[0]:.3g} to {values[-1]:.3g}">{"".join(rules)}{ends}{lines}</svg>'
    )
