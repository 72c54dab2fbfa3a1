"""The queue: jobs wait in a folder and are done one after the other by one thread.

One at a time, since one inversion already keeps every core (or the GPU) busy. Nothing of a job is kept in memory
once it is over; jobs that a stopped server left are taken up again when it starts.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.app.job import Job, State, Step, new_id
from unified.app.store import JobStore
from unified.errors import UserError

_WRITE_EVERY = 1.0  # seconds between two writings of a job's progress
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """waiting: jobs in the queue; each: of one browser; keep: finished jobs on disk; attempts: of one job."""

    waiting: int = 100
    each: int = 5
    keep: int = 200
    attempts: int = 3


class Interrupted(KeyboardInterrupt):
    """Raised in a job's own thread at its next report, when it is cancelled or the server stops."""


class Task:
    """A running job as its work sees it: settings, folder, and where to report. It is the work's `Progress`."""

    def __init__(self, job: Job, store: JobStore, stopping: threading.Event) -> None:
        self.job = job
        self.settings = job.settings
        self.folder: Path = store.path(job.id)
        self.cancelled = threading.Event()
        self._store = store
        self._stopping = stopping
        self._written = 0.0

    def check(self) -> None:
        """Raises Interrupted if the job shall stop."""
        if self.cancelled.is_set() or self._stopping.is_set():
            raise Interrupted

    def say(self, text: str) -> None:
        self.check()
        self._update(self.job.said(text), now=True)

    def start(self, label: str, total: int) -> None:
        self.check()
        self._update(self.job.changed(step=Step(label, 0, total)))

    def advance(self, done: int, *, loss: float | None = None) -> None:
        self.check()
        step = self.job.step
        self._update(self.job.changed(step=Step(step.label, done, step.total, loss)))

    def finish(self) -> None:
        self._update(self.job.changed(step=Step()))

    def _update(self, job: Job, *, now: bool = False) -> None:
        self.job = job  # what a page asks for; the file is for a restart
        if now or time.monotonic() - self._written > _WRITE_EVERY:
            self._written = time.monotonic()
            self._store.change(job.id, lambda old: job.changed(cancel=old.cancel))


Work = Callable[[Task], Mapping[str, Any]]
"""Does a job; returns its result as JSON values. May raise UserError; lets Interrupted through."""


class Jobs:
    """The queue of one server. works: kind -> what does it."""

    def __init__(self, store: JobStore, works: Mapping[str, Work], limits: Limits | None = None) -> None:
        self.store = store
        self.works = dict(works)
        self.limits = limits or Limits()
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._running: Task | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- the server -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what an earlier server left, and begin."""
        self._stopping.clear()
        self._waiting.extend(self.store.requeue(self.limits.attempts))
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Let the running job keep what it reached, and wait for that; it is queued again at the next start."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    # --- the pages ------------------------------------------------------------------------------------------

    def submit(
        self, owner: str, kind: str, title: str, settings: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> Job:
        """Queue a job. files: below its folder -> content. Raises UserError when the queue is full."""
        if kind not in self.works:
            raise UserError(f"There is no work of kind {kind!r}.")
        with self._changed:
            waiting = [self.store.read(id) for id in self._waiting]
            if len(waiting) >= self.limits.waiting:
                raise UserError(f"{len(waiting)} jobs are waiting already: try again when some are done.")
            if sum(job.owner == owner for job in waiting) >= self.limits.each:
                raise UserError(f"{self.limits.each} of your jobs are waiting already: stop one, or wait for it.")
            self.store.prune(self.limits.keep)
            job = Job(new_id(), owner, kind, title, dict(settings), created=time.time())
            self.store.create(job, files)
            self._waiting.append(job.id)
            self._changed.notify_all()
        return job

    def get(self, id: str, owner: str) -> Job:
        """A job as it is now. Raises UserError if there is none, or it is another browser's."""
        running = self._running
        job = running.job if running is not None and running.job.id == id else self.store.read(id)
        if job.owner != owner:
            raise UserError("There is no such job in this browser.")
        return job

    def of(self, owner: str, kind: str) -> list[Job]:
        """The jobs of one browser and kind, newest first."""
        return [job for job in reversed(self.store.all()) if job.owner == owner and job.kind == kind]

    def before(self, id: str) -> int:
        """How many jobs are done before this one's turn; 0 when it is its turn, or over."""
        with self._changed:
            if id not in self._waiting:
                return 0
            return list(self._waiting).index(id) + (self._running is not None)

    def cancel(self, id: str, owner: str) -> Job:
        """Stop a job: at once if it waits, at its next report if it runs. What is over stays as it is."""
        with self._changed:
            job = self.get(id, owner)
            if id in self._waiting:
                self._waiting.remove(id)
                return self.store.change(id, lambda j: _over(j, State.CANCELLED).changed(cancel=True))
            if self._running is not None and self._running.job.id == id:
                self.store.change(id, lambda j: j.changed(cancel=True))  # a killed server does not resume it
                self._running.cancelled.set()
            return job

    # --- the thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping.is_set():
                    self._changed.wait()
                if self._stopping.is_set():
                    return
                id = self._waiting.popleft()
                try:
                    job = self.store.change(id, _begun)
                except UserError:  # its folder was removed, or the disk is full
                    _log.exception("job %s cannot be begun", id)
                    continue
                self._running = Task(job, self.store, self._stopping)
            try:
                self._perform(self._running)
            except Exception:  # whatever one job does, the thread lives on for the others
                _log.exception("job %s", id)
            finally:
                self._running = None
                gc.collect()

    def _perform(self, task: Task) -> None:
        end = State.DONE
        result: Mapping[str, Any] = {}
        error = ""
        try:
            task.check()
            result = self.works[task.job.kind](task)
        except KeyboardInterrupt:
            end = State.CANCELLED if task.cancelled.is_set() else State.QUEUED
        except UserError as problem:
            end, error = State.FAILED, str(problem)
        except Exception as problem:
            _log.exception("job %s", task.job.id)
            end, error = State.FAILED, _sentence(problem)
        job = task.job.changed(result=result, error=error, step=Step())
        # A server that was asked to stop is no failed attempt.
        job = job.changed(state=end, attempts=job.attempts - 1) if end is State.QUEUED else _over(job, end)
        self.store.write(job)
        task.job = job  # only now, so that who sees it finished finds it so in the folder


def _begun(job: Job) -> Job:
    return job.changed(state=State.RUNNING, started=time.time(), attempts=job.attempts + 1)


def _over(job: Job, state: State) -> Job:
    return job.changed(state=state, finished=time.time(), step=Step())


def _sentence(problem: Exception) -> str:
    text = str(problem).strip().splitlines()
    if isinstance(problem, MemoryError) or (text and "out of memory" in text[0]):
        return "The memory is not enough: choose fewer pictures, runs or prompts, or a smaller model."
    return f"{type(problem).__name__}: {text[0] if text else 'no reason given'}"
