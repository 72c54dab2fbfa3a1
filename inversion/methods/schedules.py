"""Learning-rate factors over progress in 0..1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def constant(progress: float) -> float:
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def projector(progress: float) -> float:
    """Ramp up over the first 5 %, cosine ramp down over the last 25 % (Karras et al. 2020, appendix D)."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - progress) / 0.25))
    return down * min(1.0, progress / 0.05)


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "projector": projector,
}
