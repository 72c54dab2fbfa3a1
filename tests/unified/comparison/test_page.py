"""The page: nothing from outside, everything escaped, labels that can be read."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from tests.unified.comparison.fakes import fake_scorers
from unified.comparison.ask import Ask
from unified.comparison.chart import Point, ticks, tradeoff
from unified.comparison.report import Report
from unified.comparison.result import Cell, RunResult

ATTACK = "<script>alert(1)</script>\"'&"


def report(title: str = "a/model:recipe", text: str = "a portrait of <me>") -> Report:
    stage = {
        "spaces": [{"name": "w"}, {"name": "noise"}],
        "method": {"name": "optimize"},
        "seconds": 12.5,
        "peak_mebibytes": 900,
        "losses": [1.0, 0.5, 0.25],
        "steps": 3,
    }
    scores = {"identity": 0.75, "clip-t": 0.25, "attributes": 1.0}
    cells = [
        Cell(ask, 0, torch.rand(3, 16, 16), {k: v + ask / 8 for k, v in scores.items()}, {"mouth": "smile"}, 1.5, 950)
        for ask in range(2)
    ]
    runs = (
        RunResult(title, "one", "a/model", "gan", "recipe", "Someone 2020", stages=(stage,), cells=cells),
        RunResult("b/model:other", "two", "b/model", error=f"It failed: {ATTACK}"),
        RunResult("c/model:category", "three", "c/model", is_baseline=True, cells=cells[:1]),
    )
    asks = (Ask(text, "a portrait of a person", (("mouth", "smile"),)), Ask("<me> again", "a person again"))
    return Report(runs, asks, (0,), torch.rand(2, 3, 16, 16), "<me>", "person", fake_scorers(), notes=(ATTACK,))


class Reader(HTMLParser):
    """The tags, attributes and text of a page; fails on tags that are not closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(one: Report) -> Reader:
    from unified.comparison.page import page

    return Reader(page(one))


def test_the_page_is_well_formed_and_needs_nothing_from_outside() -> None:
    from unified.comparison.page import page

    text = page(report())
    reader = read(report())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'"data:[^"]*"', "", text))
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe")
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "prefers-color-scheme: dark" in text and "pixelated" in text


def test_names_and_prompts_are_escaped() -> None:
    one = report(title=f"a/{ATTACK}:x", text=f"{ATTACK} <me>")
    reader = read(one)
    assert all(tag != "script" for tag, _ in reader.tags)
    words = "".join(reader.words)
    assert f"{ATTACK} <me>" in words and f"It failed: {ATTACK}" in words


def test_what_was_measured_is_on_the_page_with_its_extractor() -> None:
    words = " ".join("".join(read(report()).words).split())
    expectations = (
        "0.812",
        "fake/who",
        "fake/clip",
        "fake/reader",
        "12.5 s",
        "15.5 s, 950 MiB",
        "Someone 2020",
        "It failed",
    )
    for expected in expectations:
        assert expected in words, expected  # 0.812: (0.75 + 0.875) / 2


def test_worst_cases_are_shown_with_what_was_missed_and_nothing_in_them_is_executed() -> None:
    one = report(text=f"{ATTACK} <me>")
    cell = Cell(0, 0, torch.rand(3, 16, 16), {"identity": 0.25, "attributes": 0.0}, {"mouth": ATTACK})
    first = replace(one.runs[0], cells=[*one.runs[0].cells, replace(cell, ask=1), cell])
    reader = read(replace(one, runs=(first, *one.runs[1:])))
    words = " ".join("".join(reader.words).split())
    assert f"mouth: smile asked, {ATTACK} seen" in words
    assert words.index("Worst cases") < words.index("lowest Identity") < words.index("lowest Attributes")
    assert all(tag != "script" for tag, _ in reader.tags)


def test_reference_pictures_come_first() -> None:
    images = [attributes["alt"] for tag, attributes in read(report()).tags if tag == "img"]
    assert images[:2] == ["reference picture 1", "reference picture 2"]


def test_error_bars_are_bootstrap_intervals_over_prompts() -> None:
    run = report().runs[0]
    # Two prompts: a resample holds the low one twice (1/4), both (1/2), or the high one twice (1/4).
    interval = run.interval("identity")
    assert interval is not None and (interval.low, interval.high) == (0.75, 0.875)
    assert interval.mean == pytest.approx(0.8125) == run.value("identity")
    assert report().runs[2].interval("identity") is None
    cells = [Cell(0, 0, torch.rand(3, 8, 8), {"identity": float("nan")}), Cell(1, 0, None, error="no")]
    broken = RunResult("x:y", "x", "x", cells=[*cells, Cell(2, 0, torch.rand(3, 8, 8), {"identity": 1.0})])
    assert broken.interval("identity") is None


def test_bars_may_be_longer_on_one_side() -> None:
    svg = tradeoff([Point("p", 0.5, 0.5, (0.4, 0.9), None)], x_title="x", y_title="y", width=540)
    (bar,) = re.findall(r'class="bar"[^>]* x1="([\d.]+)" x2="([\d.]+)"', svg)
    (centre,) = re.findall(r'cx="([\d.]+)"', svg)
    left, right = float(centre) - float(bar[0]), float(bar[1]) - float(centre)
    assert right == pytest.approx(4 * left, rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.213, 0.287), (-3.0, 12.0), (1e-4, 2e-4)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 2 <= len(values) <= 8
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    steps = {round((b - a) / (values[1] - values[0]), 6) for a, b in itertools.pairwise(values)}
    assert steps == {1.0}


@pytest.mark.parametrize("width", [356, 540])
def test_labels_do_not_overlap_and_stay_inside(width: int) -> None:
    names = ["projector", "pti", "textual-inversion", "dreambooth-lora", "category", "two-stage"]
    # All close to each other, two of them at the same place.
    points = [Point(name, 0.3 + 0.004 * (i // 2), 0.6 + 0.01 * (i % 3)) for i, name in enumerate(names)]
    points = [replace(p, x_bar=(p.x - 0.01, p.x + 0.01), y_bar=(p.y - 0.01, p.y + 0.01)) for p in points]
    points[1] = Point("pti", points[0].x, points[0].y)
    svg = tradeoff(points, x_title="x", y_title="y", width=width, height=340)
    boxes = []
    pattern = r'<text class="label" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>([^<]+)<'
    for x, y, anchor, label in re.findall(pattern, svg):
        length = 6.7 * len(label)
        left = float(x) - {"start": 0.0, "middle": length / 2, "end": length}[anchor]
        boxes.append((left, float(y) - 11, left + length, float(y) + 3))
    assert len(boxes) == len(names)
    for i, one in enumerate(boxes):
        assert one[0] >= 0 and one[2] <= width and one[1] >= 0 and one[3] <= 340
        for other in boxes[:i]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart


def test_a_label_that_cannot_fit_is_cut_and_whole_where_one_points() -> None:
    svg = tradeoff([Point("long " * 40, 0.5, 0.5)], x_title="x", y_title="y", width=356)
    (shown,) = re.findall(r'class="label"[^>]*>([^<]+)<', svg)
    assert shown.endswith("…") and 6.7 * len(shown) < 356 and "<title>" + "long " * 40 in svg


def test_a_single_point_has_a_chart() -> None:
    assert "<circle" in tradeoff([Point("only", 0.5, 0.5)], x_title="x", y_title="y", level=0.9, level_label="most")
