"""Where jobs lie: a folder for each, with job.json and the job's own files; one server at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from unified.app.job import Job, State, is_id
from unified.errors import UserError
from unified.files import write_file

_FILE = "job.json"


class JobStore:
    """Reads and writes jobs below `folder`. Nothing is held in memory but the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()

    def path(self, id: str) -> Path:
        """The folder of a job. Raises UserError for what is no id, so that no path can be smuggled in."""
        if not is_id(id):
            raise UserError("There is no such job.")
        return self.folder / id

    def create(self, job: Job, files: Mapping[str, bytes] | None = None) -> None:
        """Write a new job; its file comes last, so that a job that is there has its inputs."""
        folder = self.path(job.id)
        for name, data in (files or {}).items():
            write_file(folder / name, data)
        self.write(job)

    def write(self, job: Job) -> None:
        with self._lock:
            write_file(self.path(job.id) / _FILE, job.to_json())

    def read(self, id: str) -> Job:
        """Raises UserError if there is none."""
        try:
            return Job.from_json((self.path(id) / _FILE).read_bytes())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError("There is no such job: it was removed, or belongs to another server.") from error

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Read, change and write in one go; returns the new job."""
        with self._lock:
            before = self.read(id)
            after = change(before)
            if after != before:
                self.write(after)
            return after

    def ids(self) -> list[str]:
        """All jobs, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(name for name in os.listdir(self.folder) if is_id(name))

    def all(self) -> list[Job]:
        """Every job that can be read, oldest first."""
        found = []
        for id in self.ids():
            with contextlib.suppress(UserError):
                found.append(self.read(id))
        return found

    def remove(self, id: str) -> None:
        with self._lock:
            shutil.rmtree(self.path(id), ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Remove the oldest jobs that are over, until at most `keep` of them are left."""
        over = [job.id for job in self.all() if job.state.over]
        for id in over[: max(len(over) - keep, 0)]:
            self.remove(id)

    def requeue(self, most_attempts: int) -> list[str]:
        """After a start: unfinished jobs, oldest first, all queued again.

        What was asked to stop is cancelled; what stopped the server `most_attempts` times is failed.
        """
        waiting = []
        for job in self.all():
            if job.state.over:
                continue
            if job.cancel:
                self.write(job.changed(state=State.CANCELLED))
            elif job.attempts >= most_attempts:
                reason = f"The server stopped {job.attempts} times while it did this; ask again with less."
                self.write(job.changed(state=State.FAILED, error=reason))
            else:
                if job.state is State.RUNNING:
                    job = job.changed(state=State.QUEUED).said("The server was stopped; going on where it was.")
                    self.write(job)
                waiting.append(job.id)
        return waiting


class OneServer:
    """Holds the folder for this process; the system lets go of it when the process ends, however it does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("a+")
        try:
            import fcntl
        except ImportError:  # Windows: two servers on one folder are not noticed there
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                f"Another app is using {folder}: stop it, or give this one a folder of its own with --folder."
            ) from error

    def release(self) -> None:
        self._file.close()
