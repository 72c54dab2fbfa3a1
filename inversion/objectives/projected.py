"""Descent in picture space, projected onto what the generator can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View


@dataclass(frozen=True)
class ProjectedTarget(Objective):
    """Squared pixels to a target that takes a step of descent in picture space every so often.

    PGD-GAN (Shah & Hegde 2018, algorithm 1), for the measurements y = A x:

        t <- x_t + rate * A^T (y - A x_t)          one step of descent on |y - A x|^2 / 2
        x_{t+1} = G(argmin_z |t - G(z)|^2)         projection onto the generator's range, by `every` steps

    A takes the pixels inside of the reference's masks: the others are not measured, and filled in. Without masks
    A is the identity. The projection goes on from the last code, and x_0 is the picture of the first one.
    """

    name: ClassVar[str] = "projected-target"
    weight: float = 1.0
    every: int = 30
    rate: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "_target", {})  # by picture; what it remembers is no setting, so no field

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        targets: dict[str, Tensor] = self.__dict__["_target"]
        image = attempt.render()
        names = [str(i) for i in attempt.reference.index]
        # The last code is judged by the last target.
        if step.number < step.total and (step.number % self.every == 0 or any(name not in targets for name in names)):
            with torch.no_grad():
                missing = attempt.reference.images - image
                if attempt.mask is not None:
                    missing = missing * attempt.mask.to(missing.dtype)
                targets.update(zip(names, (image + self.rate * missing).unbind(), strict=True))
        target = torch.stack([targets[name] for name in names])
        return (image - target).square().flatten(1).mean(1)

    def state_dict(self) -> Mapping[str, Any]:
        return dict(self.__dict__["_target"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.__dict__["_target"].clear()
        self.__dict__["_target"].update(state)


objectives.register("projected-target", ProjectedTarget)
