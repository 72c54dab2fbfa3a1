"""A progress bar that appears on work longer than two seconds."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_DELAY = 2.0  # seconds before a bar appears


class Bar:
    """Shows label, bar, steps, loss and the time left on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: RichProgress | None = None

    def start(self, label: str, total: int) -> None:
        self.finish()
        self._label, self._total, self._begin = label, total, time.monotonic()

    def advance(self, done: int, *, loss: float | None = None) -> None:
        if self._bar is None:
            if time.monotonic() - self._begin < _DELAY:
                return
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total, loss="", start=True)
        self._bar.update(self._task, completed=done, loss="" if loss is None else f"loss {loss:.4f}")

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
