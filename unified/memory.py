"""Peak memory of a piece of work."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil
import torch

_INTERVAL = 0.02  # seconds between looks


class PeakMemory:
    """Context manager: the most memory in use within it, GPU memory where there is one, else the process's.

    `peak_mebibytes` is in MiB; resident memory is looked at every 20 ms, so shorter peaks can be missed.
    """

    peak_mebibytes: float = 0.0

    def __enter__(self) -> PeakMemory:
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        self._process = psutil.Process()
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        self.peak_mebibytes = max(self.peak_mebibytes, self._process.memory_info().rss / 2**20)

    def _watch(self) -> None:
        while self._running:
            self._look()
            time.sleep(_INTERVAL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            self.peak_mebibytes = torch.cuda.max_memory_allocated() / 2**20
            return
        self._running = False
        self._thread.join()
        self._look()
