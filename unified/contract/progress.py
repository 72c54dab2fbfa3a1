"""What long work reports while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of a running piece of work; may raise KeyboardInterrupt to stop it."""

    def start(self, label: str, total: int) -> None: ...

    def advance(self, done: int, *, loss: float | None = None) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, label: str, total: int) -> None:
        pass

    def advance(self, done: int, *, loss: float | None = None) -> None:
        pass

    def finish(self) -> None:
        pass
