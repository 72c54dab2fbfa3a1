"""How far style vectors are from where the mapping network puts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Maps, Renders
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.errors import UserError


def bound_styles(view: View, attempt: Attempt, objective: str) -> Tensor:
    """The styles [B, number, width] that the attempt was rendered from. Raises UserError if there are none."""
    if "styles" not in view.slots:
        raise UserError(
            f"The objective {objective!r} judges style vectors, and none are bound: invert in a space of style"
            " vectors, such as 'w+', or leave it out."
        )
    styles: Tensor = view.slots["styles"].rows(attempt.reference.index)
    return styles


@dataclass(frozen=True)
class Distribution(Objective):
    """The squared P_N^+ norm of the styles: mean over layers and axes of |v|^2 (Zhu et al. 2020, section 3.3).

    |v|^2 of a layer is its squared Mahalanobis distance from the mean, so this is that distance / width; about 1
    for what the mapping network makes. One term for the P-norm of Zhu et al. (weight 0.001) and of BDInvert (Kang
    et al. 2021, equation 4: 0.01), and the Gaussian prior of SAM (Parmar et al. 2022, section 3.3).
    """

    name: ClassVar[str] = "distribution"
    needs: ClassVar[tuple[type, ...]] = (Renders, Maps)
    weight: float = 1e-3

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, Maps)
        return backbone.whitened(bound_styles(view, attempt, self.name)).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Spread(Objective):
    """How far the layers' w lie apart: sum over layers of |w_i - w_0| (Tov et al. 2021, e4e, equation 3)."""

    name: ClassVar[str] = "spread"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    weight: float = 1e-3

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        w = bound_styles(view, attempt, self.name)
        squares = (w[:, 1:] - w[:, :1]).square().sum(2)
        return (squares + 1e-12).sqrt().sum(1)  # the root's slope at 0 is infinite, and all start there


objectives.register("distribution", Distribution)
objectives.register("spread", Spread)
