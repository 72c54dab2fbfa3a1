"""Twenty people at once on the app: `python -m tests.perf.app_load --help`.

The app runs in a process of its own on 127.0.0.1. Each person, over HTTP with a cookie of their own, uploads a
picture that nobody else has, inverts it, compares it under a prompt that nobody else has, looks at the page as
often as a browser does, and downloads what came of it. Checked by content: each inversion is, number by number,
what the same picture gives alone; each report holds its own prompt and no other; strangers are refused; the
queue's folder holds every job, done, in the order of asking. Printed: seconds and the server's memory after each
person.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from tests.unified.app.person import Person
from tests.unified.app.process import server
from unified.app.job import State
from unified.app.store import JobStore
from unified.comparison.store import png
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.images import read_images

NEAR = 1e-4  # by how much numbers of one computation in two processes may differ


@dataclass(frozen=True)
class Setting:
    """command: starts the app and prints its address last. model, recipe: for the inversion. run: to compare."""

    command: tuple[str, ...]
    model: str
    recipe: str
    run: str
    load: Callable[[], Backbone]
    steps: int = 2


@dataclass(frozen=True)
class Outcome:
    """Of one person: number, seconds until both results were there, and the server's memory then, in bytes."""

    number: int
    seconds: float
    memory: int


def setting(which: str, folder: Path) -> Setting:
    """tiny: random weights, made in a second. embedded: the trained avatars."""
    if which == "tiny":
        from tests.unified.app.tiny_server import tiny_models

        model = "tiny/stylegan"
        command = ("-m", "tests.unified.app.tiny_server", str(folder), "0")
        return Setting(
            command, model, "pti", "tiny/stable-diffusion:textual-inversion", lambda: tiny_models().get(model)
        )
    import unified

    model = "avatars/stylegan2"
    command = ("-m", "unified.cli", "app", "--port", "0", "--folder", str(folder))
    return Setting(command, model, "pti", "avatars/stylegan2:pti", lambda: unified.load(model))


def picture(number: int) -> Tensor:
    """[3,64,64] that only this person has: sixteen squares of random colours."""
    colours = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1000 + number))
    return colours.repeat_interleave(16, 1).repeat_interleave(16, 2)


def prompt(number: int) -> str:
    return f"a portrait of <me>, request {number:03d}"


def visit(address: str, number: int, asked: Setting, concepts: dict[int, bytes], ids: dict[int, list[str]]) -> None:
    """One person's stay, with all its checks but the inversion's."""
    with Person(address) as person:
        file = person.upload("me.png", png(picture(number)[None]))  # all of one name
        inversion = person.press("edit-go", [file, "", asked.model, asked.recipe, str(asked.steps), "person"])
        comparison = person.press(
            "compare-go",
            [[file], "", False, [asked.run], prompt(number), "<me>", "person", 1, str(asked.steps), ""],
        )
        ids[number] = [inversion, comparison]
        shown = person.follow(inversion)
        assert "app-status done" in shown["edit-status"], shown["edit-status"]
        found = person.download(inversion, "concept.safetensors")
        assert found is not None, f"the concept of {number} is lost"
        concepts[number] = found
        shown = person.follow(comparison)
        assert "app-status done" in shown["compare-status"], shown["compare-status"]
        assert f"request {number:03d}" in shown["compare-grid"] and shown["compare-grid"].count("request ") == 2
        report = person.download(comparison, "report.zip")
        assert report is not None, f"the report of {number} is lost"
        with zipfile.ZipFile(io.BytesIO(report)) as archive:
            scores = archive.read("report/scores.csv").decode()
        assert {row["prompt"] for row in csv.DictReader(io.StringIO(scores)) if row["prompt"]} == {prompt(number)}
        for other, theirs in list(ids.items()):
            if other != number:
                assert person.download(theirs[1], "report.zip") is None, f"{number} sees what {other} made"


def measure(asked: Setting, people: int, folder: Path) -> list[Outcome]:
    """All at once; returns when the last one has everything. Raises AssertionError for what is lost or mixed up."""
    outcomes: list[Outcome] = []
    concepts: dict[int, bytes] = {}
    ids: dict[int, list[str]] = {}
    lock = threading.Lock()
    with server(asked.command, folder.parent / "server.log") as (address, process):
        begun = time.monotonic()

        def one(number: int) -> None:
            visit(address, number, asked, concepts, ids)
            with lock:
                outcomes.append(Outcome(number, time.monotonic() - begun, process.memory_info().rss))

        with ThreadPoolExecutor(people) as pool:
            list(pool.map(one, range(people)))
    jobs = JobStore(folder / "jobs").all()
    assert len(jobs) == 2 * people and all(job.state is State.DONE for job in jobs), "a job is lost"
    assert len({job.owner for job in jobs}) == people
    assert [job.started for job in jobs] == sorted(job.started for job in jobs), "someone was passed over"
    check_inversions(asked, concepts)
    return outcomes


def check_inversions(asked: Setting, concepts: dict[int, bytes]) -> None:
    """Each is what its own picture gives alone, and no other's."""
    backbone = asked.load()
    found: dict[int, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, data in concepts.items():
            path = Path(folder) / f"{number}.safetensors"
            path.write_bytes(data)
            found[number] = _numbers(Concept.load(path))
            images = read_images([_file(path.with_suffix(".png"), number)], size=backbone.resolution)
            alone = backbone.invert(images, recipe=asked.recipe, steps=asked.steps, name="<me>", category="person")
            assert torch.allclose(found[number], _numbers(alone), atol=NEAR), f"{number} did not get their own"
    for number, mine in found.items():
        assert all(not torch.allclose(mine, other, atol=NEAR) for n, other in found.items() if n != number)


def _file(path: Path, number: int) -> Path:
    path.write_bytes(png(picture(number)[None]))
    return path


def _numbers(concept: Concept) -> Tensor:
    """The first code's tensors in one row: the place in the style space, which depends on the picture."""
    tensors = concept.codes[0].tensors
    return torch.cat([tensors[name].float().flatten() for name in sorted(tensors)])


def growth(outcomes: list[Outcome], *, early: int = 5) -> tuple[int, int]:
    """The server's memory in bytes after `early` people, and after all."""
    return outcomes[min(early, len(outcomes)) - 1].memory, outcomes[-1].memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--models", choices=("tiny", "embedded"), default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "app"
        outcomes = measure(setting(options.models, folder), options.people, folder)
    print("done  person  seconds  server MB")
    for count, outcome in enumerate(outcomes, 1):
        print(f"{count:4}  {outcome.number:6}  {outcome.seconds:7.1f}  {outcome.memory / 2**20:9.0f}")
    early, last = growth(outcomes)
    print(f"{len(outcomes)} people, {2 * len(outcomes)} jobs: none lost, none mixed up.")
    print(
        f"Memory after {min(5, len(outcomes))}: {early / 2**20:.0f} MB, after {len(outcomes)}: {last / 2**20:.0f} MB."
    )


if __name__ == "__main__":
    main()
