"""Perceptual distance to the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.metrics.lpips import embedded_lpips


@dataclass(frozen=True)
class Perceptual(Objective):
    """LPIPS with the AlexNet trunk (Zhang et al. 2018); the target's features are computed once."""

    name: ClassVar[str] = "perceptual"
    weight: float = 1.0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        lpips = embedded_lpips()
        target = attempt.reference.once("lpips-alex", lpips.features)
        return lpips.distance(lpips.features(attempt.render()), target)


objectives.register("perceptual", Perceptual)
