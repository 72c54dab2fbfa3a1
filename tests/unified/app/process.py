"""The app in a process of its own, as tests and measurements start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]


@contextmanager
def server(command: Sequence[str], log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """(address, process) of the app that `python COMMAND` starts. log: what it says of errors."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
        )
    assert process.stdout is not None
    try:
        yield _address(process.stdout, log), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(300)
        process.stdout.close()


def _address(lines: Iterable[str], log: Path) -> str:
    for line in lines:
        for word in line.split():
            if word.startswith("http://127.0.0.1:"):
                return word
    raise SystemExit(f"The app did not start:\n{log.read_text()}")
