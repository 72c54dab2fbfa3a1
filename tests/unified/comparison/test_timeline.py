"""Time, memory and losses as drawings whose lengths are the numbers."""

import itertools
import re

import pytest
import torch

from unified.comparison.curve import curve, smoothed
from unified.comparison.result import Cell, RunResult
from unified.comparison.timeline import axis, drawing, duration, legend, pieces

STAGES = [
    {"spaces": [{"name": "w"}], "method": {"name": "optimize"}, "seconds": 30.0, "peak_mebibytes": 800},
    {"spaces": [{"name": "weights"}], "method": {"name": "optimize"}, "seconds": 10.0, "peak_mebibytes": 1000},
]
CELLS = [
    Cell(0, 0, torch.zeros(3, 4, 4), seconds=4.0, peak_mebibytes=500),
    Cell(1, 0, None, error="failed"),
    Cell(2, 0, torch.zeros(3, 4, 4), seconds=6.0, peak_mebibytes=600),
]
RUN = RunResult("a:b", "a", "a", stages=STAGES, cells=CELLS)


def test_pieces_follow_each_other_and_failed_pictures_take_no_place() -> None:
    found = pieces(RUN)
    assert [(p.begin, p.end) for p in found] == [(0, 30), (30, 40), (40, 44), (44, 50)]
    assert [p.is_picture for p in found] == [False, False, True, True]
    assert pieces(RunResult("x", "x", "x")) == []


def test_widths_are_shares_of_the_longest_run_and_heights_shares_of_the_most_memory() -> None:
    svg = drawing(pieces(RUN), longest=100.0, most=1000.0, colour="#123456")
    bars = re.findall(r'<rect x="([\d.]+)" y="0" width="([\d.]+)"', svg)
    assert [float(x) for x, _ in bars] == [0, 300, 400, 440]
    assert [float(width) + 1 for _, width in bars] == pytest.approx([300, 100, 40, 60])  # a gap of one between them
    heights = [float(h) for h in re.findall(r'class="memory"[^>]* height="([\d.]+)"', svg)]
    assert [h / heights[1] for h in heights] == pytest.approx([0.8, 1, 0.5, 0.6])


def test_the_legend_sums_the_pictures_up() -> None:
    assert [text for _, text in legend(pieces(RUN))] == [
        "w (optimize) 30.0 s",
        "weights (optimize) 10.0 s",
        "2 pictures 10.0 s, 5.0 s each",
    ]


def test_times_are_said_as_people_say_them() -> None:
    spoken = [duration(s) for s in (0.21, 1.0, 24.44, 543.4, 119.9, 7500.0)]
    assert spoken == ["0.21 s", "1.0 s", "24.4 s", "9 min 3 s", "2 min 0 s", "2 h 5 min"]


def test_the_axis_is_in_minutes_for_long_runs() -> None:
    assert axis(20.0) == [(0, "0 s"), (25, "5 s"), (50, "10 s"), (75, "15 s"), (100, "20 s")]
    assert axis(600.0)[1] == (pytest.approx(100 * 2.5 / 10), "2.5 min")
    assert axis(0.0) == []


def test_the_running_mean_keeps_a_line_and_flattens_noise() -> None:
    line = [2.0 * i for i in range(100)]
    assert smoothed(line) == pytest.approx(line)
    noise = [1.0 + (-1) ** i for i in range(100)]
    assert max(abs(v - 1) for v in smoothed(noise)[5:-5]) < 0.15


def points(svg: str, style: str) -> list[tuple[float, float]]:
    (found,) = re.findall(rf'class="{style}"[^>]* points="([^"]+)"', svg)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.split())]


def test_a_loss_that_falls_by_the_same_factor_each_step_is_a_straight_line() -> None:
    found = points(curve([10.0**-i for i in range(5)], colour="#000", steps=5), "mean")
    steps = {(round(b[0] - a[0], 0), round(b[1] - a[1], 0)) for a, b in itertools.pairwise(found)}
    assert len(found) == 5 and len(steps) == 1


def test_long_noisy_and_broken_curves() -> None:
    svg = curve([2 + (-1) ** i for i in range(2000)], colour="#000", steps=2000)
    assert len(points(svg, "mean")) <= 501 and len(points(svg, "raw")) <= 501
    broken = curve([1.0, 0.5, float("nan"), 0.25, 0.2], colour="#000", steps=5)
    assert broken.count("<polyline") == 2 and "nan" not in broken
    assert curve([float("nan")] * 3, colour="#000", steps=3) == ""
    assert "<polyline" in curve([0.5] * 3, colour="#000", steps=3)
    assert "<polyline" in curve([0.0, -1.0, 2.0], colour="#000", steps=3)
