"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(*, steps: int, peak: float, warmup: int, floor: float = 0.02) -> Callable[[int], float]:
    """Linear from 0 to `peak` over `warmup` steps, then a cosine down to `floor * peak` at `steps`."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate
