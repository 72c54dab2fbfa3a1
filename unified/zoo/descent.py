"""What every training does with a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from unified.zoo.training import ExponentialAverage

LONGEST = 1.0  # norm that gradients are shortened to


class Descent:
    """One step down the gradient, at a learning rate that is a function of the step alone.

    optimizer: as `accelerator` prepared it; a parameter group's own "factor" scales the rate. trained: whose gradients
    are clipped together. rate: step -> learning rate. average: follows `averaged`, or all of `trained`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: Any,
        trained: nn.Module,
        *,
        rate: Callable[[int], float],
        average: ExponentialAverage | None = None,
        averaged: nn.Module | None = None,
    ) -> None:
        self.accelerator, self.optimizer, self.trained, self.rate = accelerator, optimizer, trained, rate
        self.average, self.averaged = average, trained if averaged is None else averaged

    def __call__(self, step: int, loss: Tensor) -> None:
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trained.parameters(), LONGEST)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.averaged, step)
