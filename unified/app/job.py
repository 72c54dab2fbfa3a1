"""A job of the app: what is asked, how far it is, what came of it; one JSON file."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LINES = 60  # of what a job said, the latest are kept
_ID = re.compile(r"[0-9a-f]{12}-[0-9a-f]{16}")


class State(StrEnum):
    """queued and running jobs are taken up again after a restart; the others are over."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Step:
    """How far the current piece of work is: done of total, and its loss where it has one."""

    label: str = ""
    done: int = 0
    total: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Job:
    """One piece of work.

    owner: whose browser asked for it. kind: which work. settings: JSON. times: seconds since 1970, 0 for not yet.
    lines: what it said, the latest. result: JSON of what came of it. attempts: how often it was begun.
    cancel: it shall stop.
    """

    id: str
    owner: str
    kind: str
    title: str
    settings: Mapping[str, Any]
    state: State = State.QUEUED
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    step: Step = Step()
    lines: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    attempts: int = 0
    cancel: bool = False

    def changed(self, **changes: Any) -> Job:
        return dataclasses.replace(self, **changes)

    def said(self, text: str) -> Job:
        return self.changed(lines=(*self.lines, text)[-LINES:])

    def to_json(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> Job:
        """Raises ValueError, TypeError or KeyError for what is no job."""
        values = json.loads(data)
        values["state"] = State(values["state"])
        values["step"] = Step(**values["step"])
        values["lines"] = tuple(values["lines"])
        return Job(**values)


def new_id() -> str:
    """Sorts by time, and cannot be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(8)}"


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None
