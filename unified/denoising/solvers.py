"""Samplers: how a trajectory goes from one noise level to the next, in either direction.

A solver is made anew for each trajectory, since some remember the step before. The same object that samples
also inverts: deterministic ones by being run over the levels backwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Flows, Level
from unified.denoising.steps import ancestral_mean, deterministic, deviation, log_ratio, velocity

Split = Callable[[Tensor, Level], tuple[Tensor, Tensor]]
"""(x, level) -> (x0, eps) that the network implies there."""


class Solver(ABC):
    """needs: protocols of the backbone. multistep: whether a step depends on the steps before it."""

    name: ClassVar[str]
    needs: ClassVar[tuple[type, ...]] = ()
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = False

    @abstractmethod
    def step(self, split: Split, x: Tensor, at: Level, to: Level, middle: Level | None) -> Tensor:
        """x at level `to`, for a stochastic solver without its new noise.

        middle: the level half-way in s, for backbones that have every level (`Flows`).
        """

    def deviation(self, at: Level, to: Level) -> float:
        """Standard deviation of the noise to add after `step`."""
        return deviation(at, to) if self.stochastic else 0.0


class DDIM(Solver):
    """First order: DDIM (Song et al. 2021), for a flow Euler's method."""

    name: ClassVar[str] = "ddim"

    def step(self, split: Split, x: Tensor, at: Level, to: Level, middle: Level | None) -> Tensor:
        return deterministic(*split(x, at), to)


class DDPM(Solver):
    """Ancestral sampling (Ho et al. 2020, algorithm 2), as DDIM with eta 1, which also holds for flows."""

    name: ClassVar[str] = "ddpm"
    stochastic: ClassVar[bool] = True

    def step(self, split: Split, x: Tensor, at: Level, to: Level, middle: Level | None) -> Tensor:
        return ancestral_mean(*split(x, at), at, to)


class DPMSolverPlusPlus(Solver):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order in h, one network call a step.

    x' = (s'/s) x + (a' - a s'/s) D with D = (1 + 1/2r) x0 - 1/2r x0_before, r = h_before/h, where h is the step
    in log(a/s); a' - a s'/s is the paper's -a' (exp(-h) - 1). First order where h or h_before is infinite
    (pure noise, clean data) and at the last step if that ends there, as the paper advises.
    """

    name: ClassVar[str] = "dpm-solver++"
    multistep: ClassVar[bool] = True

    def __init__(self) -> None:
        self._before: tuple[Tensor, float] | None = None  # x0 and h of the step before

    def step(self, split: Split, x: Tensor, at: Level, to: Level, middle: Level | None) -> Tensor:
        x0, eps = split(x, at)
        h = log_ratio(to) - log_ratio(at)
        data = self._extrapolated(x0, h)
        self._before = (x0, h)
        if at.s == 0:
            return deterministic(x0, eps, to)
        return self._combine(x, data, at, to)

    def _extrapolated(self, x0: Tensor, h: float) -> Tensor:
        if self._before is None or math.isinf(h) or math.isinf(self._before[1]):
            return x0
        before, h_before = self._before
        return x0 + h / (2 * h_before) * (x0 - before)

    def _combine(self, x: Tensor, data: Tensor, at: Level, to: Level) -> Tensor:
        return to.s / at.s * x + (to.a - at.a * to.s / at.s) * data


class SDEDPMSolverPlusPlus(DPMSolverPlusPlus):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, appendix): the same with as much noise as DDPM adds.

    mean = (s'/s) exp(-h) x + a' (1 - exp(-2h)) D with exp(-h) = a s' / (a' s); its noise has the deviation
    s' sqrt(1 - exp(-2h)), that of an ancestral step.
    """

    name: ClassVar[str] = "sde-dpm-solver++"
    stochastic: ClassVar[bool] = True

    def _combine(self, x: Tensor, data: Tensor, at: Level, to: Level) -> Tensor:
        shrink = at.a * to.s / (to.a * at.s)
        return to.s / at.s * shrink * x + to.a * (1 - shrink**2) * data


class RFSolver(Solver):
    """RF-Solver (Wang et al. 2024, section 3.2): a second-order Taylor step of a rectified flow.

    x' = x + h v + h^2/2 dv/ds, where dv/ds is the difference of v between the middle of the step and its start
    (equation 9): two network calls a step.
    """

    name: ClassVar[str] = "rf-solver"
    needs: ClassVar[tuple[type, ...]] = (Flows,)

    def step(self, split: Split, x: Tensor, at: Level, to: Level, middle: Level | None) -> Tensor:
        assert middle is not None
        h, half = to.s - at.s, middle.s - at.s
        v = velocity(*split(x, at))
        slope = (velocity(*split(x + half * v, middle)) - v) / half
        return x + h * v + h**2 / 2 * slope


SOLVERS: Mapping[str, type[Solver]] = {
    cls.name: cls for cls in (DDIM, DDPM, DPMSolverPlusPlus, SDEDPMSolverPlusPlus, RFSolver)
}
