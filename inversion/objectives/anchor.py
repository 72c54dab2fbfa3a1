"""Staying near where a code began."""

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
from unified.errors import UserError


@dataclass(frozen=True)
class Anchor(Objective):
    """Mean squared difference of a per-picture code from its first value, the mean over its tensors' means.

    |F - F_0|^2 of BDInvert (Kang et al. 2021, equation 3) and SAM (Parmar et al. 2022, equation 6).
    space: which of the codes being optimised.
    """

    name: ClassVar[str] = "anchor"
    weight: float = 1.0
    space: str = "f"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_first", {})  # what it remembers is no setting, so no field

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        first: dict[str, Tensor] = self.__dict__["_first"]
        code = next((code for code in codes if code.space == self.space and code.per_picture), None)
        if code is None:
            raise UserError(
                f"The objective 'anchor' watches a per-picture code of space {self.space!r}; there is none."
            )
        if not first:
            first.update({key: value.detach().clone() for key, value in code.tensors.items()})
        index = list(attempt.reference.index)
        distances = [(code.tensors[k] - first[k])[index].square().flatten(1).mean(1) for k in code.tensors]
        return torch.stack(distances).mean(0)

    def state_dict(self) -> Mapping[str, Any]:
        return dict(self.__dict__["_first"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.__dict__["_first"].clear()
        self.__dict__["_first"].update(state)


objectives.register("anchor", Anchor)
