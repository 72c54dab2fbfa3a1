"""What the three pages share: models, jobs, who asks, and how a page follows its job."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from unified.app import html
from unified.app.door import owner_of
from unified.app.job import Job
from unified.app.jobs import Jobs
from unified.app.models import Models
from unified.app.uploads import Bounds, read_uploads
from unified.app.works import INPUTS, Workshop
from unified.avatars import benchmark
from unified.comparison.references import BENCHMARK
from unified.comparison.store import png
from unified.errors import UserError

POLL = 0.5  # seconds between two looks at a running job
_MOMENT = 0.3  # seconds that the answer to a click waits for a job whose turn it is
OWN = ""  # in place of a person of the benchmark: the pictures that were uploaded

#: The page's address names its job, so that a reload finds it again.
SET_ADDRESS = """(id) => {
  const address = new URL(window.location);
  if (id) address.searchParams.set('job', id); else address.searchParams.delete('job');
  window.history.replaceState(null, '', address);
}"""


@dataclass(frozen=True)
class Site:
    """One app: its workshop (models, store), queue and bounds."""

    workshop: Workshop
    jobs: Jobs
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def models(self) -> Models:
        return self.workshop.models

    def folder(self, job: Job) -> Path:
        return self.jobs.store.path(job.id)

    def find(self, id: str, request: gr.Request) -> Job | None:
        """The job with this id, if there is one and it is this browser's."""
        try:
            return self.jobs.get(id, who(request)) if id else None
        except UserError:
            return None

    def begun(self, job: Job) -> Job:
        """The job as it is a moment later, if it is its turn: so the first answer to a click says how it goes."""
        end = time.monotonic() + _MOMENT
        while not (job.lines or job.state.over or self.jobs.before(job.id)) and time.monotonic() < end:
            time.sleep(0.01)
            job = self.jobs.get(job.id, job.owner)
        return job

    def stop(self, id: str, request: gr.Request) -> None:
        """Cancel, if there is something to cancel."""
        job = self.find(id, request)
        if job is not None:
            self.jobs.cancel(job.id, job.owner)

    def inputs(self, person: str, paths: Sequence[str], *, leave_out: bool) -> tuple[dict[str, bytes], str]:
        """(files of a job, person): uploaded pictures, or a person of the benchmark.

        Raises UserError for no picture, too many, or files that are no pictures unless they may be left out.
        """
        if person:
            return {}, f"{BENCHMARK}{person}"
        if not paths:
            raise UserError("There is no picture: drop some, or choose a person of the benchmark.")
        found = read_uploads(paths, self.bounds)
        if found.refused and not leave_out:
            raise UserError(f"{', '.join(found.refused)} cannot be used: remove it, or allow to leave it out.")
        if not found.pictures:
            raise UserError("None of the files is a picture that can be used: choose others.")
        return found.files(INPUTS), ""

    def checked(self, paths: Sequence[str] | str | None) -> tuple[str, bool]:
        """(thumbnails and refusals as HTML, whether something was refused) of what was uploaded."""
        try:
            found = read_uploads(listed(paths), self.bounds)
        except UserError as error:
            return html.note(str(error)), False
        return html.thumbnails(found.pictures) + html.problems(found.refused), bool(found.refused)


def who(request: gr.Request) -> str:
    """Whose browser asks; without cookies, the one tab."""
    return owner_of(dict(request.cookies)) or str(request.session_hash)


def hidden_job() -> gr.Textbox:
    """Holds the id of the job that a page follows; a field, since scripts of the page cannot read a State."""
    return gr.Textbox("", visible="hidden", show_label=False)


def address_job(request: gr.Request) -> str:
    """The job in the page's address, or ""."""
    return str(dict(request.query_params).get("job", ""))


def listed(paths: Sequence[str] | str | None) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths or [])


def people() -> list[tuple[str, str]]:
    """Choices: (shown, person of the benchmark)."""
    shown = [("my own pictures", OWN)]
    for person in benchmark.load():
        shown.append(
            (person.name + (" (hair style never seen in training)" if person.out_of_domain else ""), person.name)
        )
    return shown


def pictures_of(person: str) -> dict[str, bytes]:
    """The pictures of a person of the benchmark."""
    found = next(p for p in benchmark.load() if p.name == person)
    return {f"picture {i + 1}": png(image[None]) for i, image in enumerate(found.images)}


def first_picture(person: str) -> dict[str, bytes]:
    return dict(list(pictures_of(person).items())[:1])


def job_choices(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Choices: (title, when and state; id), newest first."""
    return [
        (f"{job.title} · {time.strftime('%d %b %H:%M', time.localtime(job.created))} · {job.state}", job.id)
        for job in jobs
    ]


def whole(value: Any, *, what: str, least: int = 1, most: int = 100_000) -> int | None:
    """A whole number that a field holds; None if it is empty. Raises UserError if it is none, or out of bounds."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most or number != int(number):
        raise UserError(f"{what}: {text} was given; give a whole number from {least} to {most}.")
    return int(number)


def named(name: str) -> str:
    """The placeholder. Raises UserError if it is empty or long."""
    name = name.strip()
    if not name or len(name) > 40:
        raise UserError("The name must have 1 to 40 characters: it stands for the concept in prompts, as <me> does.")
    return name
