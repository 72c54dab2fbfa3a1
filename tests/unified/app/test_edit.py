"""Inversions as jobs, what sliders make of them, and the way between two of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.unified.app.test_jobs import over
from tests.unified.app.tiny_server import tiny_shop
from unified.app.edit import Editor, choices, readable, shown_first
from unified.app.html import data_address
from unified.app.job import State
from unified.app.jobs import Jobs, Task
from unified.app.server import Settings
from unified.app.works import CONCEPT, Workshop
from unified.contract.concept import Concept
from unified.errors import UserError
from unified.images import read_images

ASKED = {"model": "tiny/stylegan", "recipe": "image2stylegan", "steps": 6, "name": "<me>", "category": "person"}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return tiny_shop(Settings(tmp_path))


@pytest.fixture
def queue(shop: Workshop) -> Iterator[Callable[[], Jobs]]:
    made: list[Jobs] = []

    def begin() -> Jobs:
        jobs = Jobs(shop.store, shop.works())
        jobs.start()
        made.append(jobs)
        return jobs

    yield begin
    for jobs in made:
        jobs.stop()


def asked(person: str) -> dict[str, object]:
    return {**ASKED, "person": f"avatarbench/{person}"}


def test_sliders_move_the_inverted_picture_and_zeros_give_it_back(
    shop: Workshop, queue: Callable[[], Jobs], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    jobs = queue()
    job = jobs.submit("me", "invert", "one", asked("person-01"))
    editor = Editor(shop)
    with pytest.raises(UserError, match="invert a picture first"):
        editor.redraw(job, {})
    (done,) = over(jobs, job)
    assert done.state is State.DONE, done.error
    inverted = editor.redraw(done, {"anything": 0.0})
    assert inverted == data_address(shop.store.path(job.id) / "after.png")
    found = over(jobs, jobs.submit("me", "directions", "find", {"model": ASKED["model"], "method": "sefa"}))[0]
    assert found.state is State.DONE, found.error
    name = next(iter(editor.directions(done)))
    assert editor.redraw(done, {name: 3.0}) != inverted
    assert editor.redraw(done, {name: 0.0}) == inverted
    with pytest.raises(UserError, match="nonsense"):
        editor.redraw(done, {"nonsense": 1.0})


def test_the_way_between_two_inversions_begins_and_ends_at_them(shop: Workshop, queue: Callable[[], Jobs]) -> None:
    jobs = queue()
    made = over(jobs, *(jobs.submit("me", "invert", name, asked(name)) for name in ("person-01", "person-02")))
    settings = {"model": ASKED["model"], "first": made[0].id, "second": made[1].id, "steps": 3, "seed": 0}
    (way,) = over(jobs, jobs.submit("me", "between", "way", settings))
    assert way.state is State.DONE, way.error
    assert [item["label"] for item in way.result["pictures"]] == ["first", "50%", "second"]
    folder = shop.store.path(way.id) / "pictures"
    shown = [read_images(folder / item["file"]) for item in way.result["pictures"]]
    for picture, job in zip((shown[0], shown[2]), made, strict=True):
        assert torch.allclose(picture, read_images(shop.store.path(job.id) / "after.png"), atol=1 / 255)
    assert not torch.equal(shown[0], shown[1]) and not torch.equal(shown[1], shown[2])


def test_an_inversion_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    shop: Workshop, queue: Callable[[], Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = queue()
    (whole,) = over(first, first.submit("me", "invert", "whole", asked("person-03")))
    steps: list[int] = []
    advance = Task.advance

    def counted(self: Task, done: int, *, loss: float | None = None) -> None:
        steps.append(done)
        if len(steps) == 3:
            first._stopping.set()  # the server is asked to stop in the middle
        advance(self, done, loss=loss)

    monkeypatch.setattr(Task, "advance", counted)
    job = first.submit("me", "invert", "stopped", asked("person-03"))
    assert first._thread is not None
    first._thread.join(120)
    assert shop.store.read(job.id).state is State.QUEUED
    reached = max(steps)
    steps.clear()
    (done,) = over(queue(), job)
    assert done.state is State.DONE, done.error
    assert 0 < reached < 6 and steps[0] > 1  # what was reached is not done again
    a, b = (Concept.load(shop.store.path(each.id) / CONCEPT).codes[0].tensors for each in (whole, done))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_new_inversion_begins_with_sliders_of_different_attributes() -> None:
    names = [
        "background=blue", "background=green", "glasses=none", "glasses=sunglasses", "hair_colour=red",
        "centres:background=blue", "sefa:all-0", "sefa:all-1",
    ]  # fmt: skip
    assert shown_first(names, 12) == ["background=blue", "glasses=sunglasses", "hair_colour=red"]
    assert shown_first(names, 2) == ["background=blue", "glasses=sunglasses"]
    assert shown_first(names[-2:], 8) == ["sefa:all-0", "sefa:all-1"]
    assert choices(names)[0] == ("background: blue", "background=blue")
    assert readable("sefa:all-0") == "all-0 (sefa)" and readable("hair_colour=red") == "hair colour: red"
