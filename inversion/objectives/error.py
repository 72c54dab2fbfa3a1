"""The backbone's own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View


@dataclass(frozen=True)
class Error(Objective):
    """The attempt's error averaged per picture: squared pixels, squared epsilon, or nats per token."""

    name: ClassVar[str] = "error"
    weight: float = 1.0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        return attempt.error.flatten(1).mean(1)


objectives.register("error", Error)
