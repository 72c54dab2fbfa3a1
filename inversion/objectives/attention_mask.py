"""The concept's word shall look at the concept (Break-A-Scene)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.objectives.masked import resized
from unified.contract.abilities import Attends
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class AttentionMask(Objective):
    """mean (A / max A - mask)^2 of the cross-attention map A of the concept's name (Avrahami et al. 2023, equation 3).

    A is the mean over heads and layers at a quarter of the latents' side (16 of 64).
    """

    name: ClassVar[str] = "attention-mask"
    requires: ClassVar[frozenset[str]] = frozenset({"masks"})
    needs: ClassVar[tuple[type, ...]] = (Attends,)

    weight: float = 1e-2

    def prepare(self, view: View) -> None:
        view.watch()

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        if attempt.mask is None:
            raise UserError("The objective 'attention-mask' needs masks of the concept: pass masks=...")
        names = attempt.reference.names
        maps = [attempt.maps[name][row] for row, name in enumerate(names)]
        return masked_map_error(maps, attempt.mask)


def masked_map_error(maps: list[Tensor], masks: Tensor) -> Tensor:
    """[B]; maps: [height, width] each. masks: [B,1,H,W]. A map of zeros (the name is not said) counts as it is."""
    rows = []
    for one, mask in zip(maps, masks, strict=True):
        target = resized(mask[None], one[None, None])[0, 0]
        rows.append((one / one.max().clamp(min=1e-12) - target).square().mean())
    return torch.stack(rows)


objectives.register("attention-mask", AttentionMask)
