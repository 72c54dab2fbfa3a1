"""One step between two noise levels of x = a x0 + s eps, as pure functions.

All are written without logarithms of a or s, so that pure noise (a = 0, a flow's first level) and clean data
(s = 0, its last) are no special cases.
"""

from __future__ import annotations

import math

from torch import Tensor

from unified.contract.abilities import Level


def deterministic(x0: Tensor, eps: Tensor, to: Level) -> Tensor:
    """a' x0 + s' eps: DDIM (Song et al. 2021, equation 12, eta 0), and the Euler step of a flow."""
    return to.a * x0 + to.s * eps


def deviation(at: Level, to: Level) -> float:
    """Standard deviation of the new noise of an ancestral step (Song et al. 2021, equation 16, eta 1).

    sigma^2 = s'^2/s^2 (s^2 - a^2 s'^2/a'^2), the DDPM posterior's variance where a^2 + s^2 = 1.
    """
    kept = (at.a * to.s / to.a) ** 2
    return to.s / at.s * math.sqrt(max(at.s**2 - kept, 0.0))


def ancestral_mean(x0: Tensor, eps: Tensor, at: Level, to: Level) -> Tensor:
    """a' x0 + sqrt(s'^2 - sigma^2) eps: the mean of that step."""
    return to.a * x0 + math.sqrt(max(to.s**2 - deviation(at, to) ** 2, 0.0)) * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """dx/ds of the straight path x = (1 - s) x0 + s eps."""
    return eps - x0


def log_ratio(level: Level) -> float:
    """log(a / s), half the log signal-to-noise ratio: the time that DPM-Solver integrates over."""
    if level.a == 0:
        return -math.inf
    return math.inf if level.s == 0 else math.log(level.a / level.s)
