"""One resumable training loop for all embedded models, through `accelerate`.

The batch of a step is a pure function of (seed, step): see :func:`step_generator`. So a run that was
interrupted and resumed takes the same steps as one that was not, and no random state needs saving.
"""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

CHECKPOINT = "checkpoint.pt"


class Stateful(Protocol):
    """Anything that is saved in a checkpoint: modules, optimisers, averaged weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class BuildSettings:
    """What `unified zoo build` asks of a builder.

    out: folder that receives the finished model (weights, configuration, card).
    work: folder for checkpoints and the log.
    steps: total training steps; None is the builder's default.
    batch: pictures per step; None is the builder's default.
    minutes: stop after this long, with a checkpoint and an export of what was reached; None: no limit.
    resume: continue from the checkpoint in `work` if there is one.
    checkpoint_minutes: time between checkpoints.
    """

    out: Path
    work: Path
    steps: int | None = None
    batch: int | None = None
    minutes: float | None = None
    resume: bool = True
    seed: int = 0
    checkpoint_minutes: float = 5.0

    def pick_steps(self, default: int) -> int:
        return default if self.steps is None else self.steps

    def pick_batch(self, default: int) -> int:
        return default if self.batch is None else self.batch


class ExponentialAverage:
    """Exponential moving average of a module's parameters, with a warm-up (Karras et al. 2020, appendix B).

    `half_life` is in steps. Buffers are copied, not averaged.
    """

    def __init__(self, module: nn.Module, *, half_life: float, ramp_up: float = 0.05) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp_up = ramp_up

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        half_life = min(self.half_life, max(step, 1) * self.ramp_up)
        decay = 0.5 ** (1.0 / max(half_life, 1e-8))
        for average, value in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(value.to(average.dtype), 1.0 - decay)
        for kept, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.module.load_state_dict(state)


def step_generator(seed: int, step: int, *, stream: int = 0) -> torch.Generator:
    """The random numbers of one step; `stream` separates independent uses within the step."""
    mixed = (seed * 1_000_003 + step) * 7_919 + stream
    return torch.Generator().manual_seed(mixed % (2**63 - 1))


def save_checkpoint(path: Path, state: Mapping[str, Stateful], step: int, seconds: float) -> None:
    """Write all state dicts and the step to `path`, by a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    blob = {"step": step, "seconds": seconds, "state": {k: v.state_dict() for k, v in state.items()}}
    torch.save(blob, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> tuple[int, float]:
    """Load into `state`; returns (step, seconds trained so far)."""
    blob = torch.load(path, map_location="cpu", weights_only=True)
    for name, item in state.items():
        item.load_state_dict(blob["state"][name])
    return int(blob["step"]), float(blob["seconds"])


def train_loop(
    step_fn: Callable[[int], Mapping[str, float]],
    *,
    state: Mapping[str, Stateful],
    steps: int,
    settings: BuildSettings,
    accelerator: Accelerator | None = None,
    log_every: int = 50,
) -> tuple[int, float]:
    """Call `step_fn(step)` for step = resumed..steps-1; returns (steps reached, seconds trained in all).

    `step_fn` does one optimisation step and returns scalars to log. `state` is what a checkpoint holds
    (unwrapped modules). The log is `settings.work/log.txt`, one line each `log_every` steps.
    """
    path = settings.work / CHECKPOINT
    start, before = 0, 0.0
    if settings.resume and path.exists():
        start, before = load_checkpoint(path, state)
    main = accelerator is None or accelerator.is_main_process
    settings.work.mkdir(parents=True, exist_ok=True)
    begin = saved = time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    step = start
    with _StopAfterStep() as stop:
        while step < steps:
            for name, value in step_fn(step).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            count += 1
            step += 1
            now = time.monotonic()
            if main and (step % log_every == 0 or step == steps):
                means = " ".join(f"{name} {value / count:.4f}" for name, value in sums.items())
                line = f"step {step}/{steps} {means} {(now - begin) / (step - start):.3f} s/step"
                print(line, flush=True)
                with open(settings.work / "log.txt", "a", encoding="utf-8") as log:
                    log.write(line + "\n")
                sums, count = {}, 0
            over = settings.minutes is not None and now - begin > settings.minutes * 60
            if main and (now - saved > settings.checkpoint_minutes * 60 or over or stop.asked or step == steps):
                save_checkpoint(path, state, step, before + now - begin)
                saved = now
            if over or stop.asked:
                break
    if stop.asked:
        raise KeyboardInterrupt(f"stopped after step {step}; the same command goes on from there")
    return step, before + time.monotonic() - begin


class _StopAfterStep:
    """Within it, Ctrl-C and termination only set `asked`: a checkpoint never holds half a step.

    A second Ctrl-C stops at once. Outside the main thread, where signals cannot be caught, it does nothing.
    """

    asked = False

    def __enter__(self) -> _StopAfterStep:
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
