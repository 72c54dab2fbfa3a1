"""Likelihood weighted by scale, for models that draw scale by scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.scale_parts import split_scales
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.scale_memory import scale_mask
from unified.contract.tokens import PredictsScales
from unified.contract.view import View


@dataclass(frozen=True)
class ScaleError(Objective):
    """The mean over all tokens of the weighted nats (ARBooth, scale-wise weighting).

    Coarse scales decide identity and layout and are few tokens; fine ones are many and matter less. share: of
    the scales, counted from the coarsest, that have weight 1; the others have `fine`. The paper weights the
    first 8 of 13 scales with 1 and the rest with 0.5.
    """

    name: ClassVar[str] = "scale-error"
    needs: ClassVar[tuple[type, ...]] = (PredictsScales,)
    weight: float = 1.0
    share: float = 8 / 13
    fine: float = 0.5

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, PredictsScales)
        sizes = backbone.scale_sizes()
        coarse = round(self.share * len(sizes))
        weights = [torch.full((size,), 1.0 if k < coarse else self.fine) for k, size in enumerate(sizes)]
        return (attempt.error * torch.cat(weights).to(attempt.error)).mean(1)


@dataclass(frozen=True)
class ScaleTurns(Objective):
    """The nats of the scales of style and of those of content in turn, style first (CSD-VAR, section 4.1).

    Each is the mean over the tokens of its scales. minor: weight of the content's scales beside the style's; the
    released code has 0.1, so that the style is not free to say just anything there.
    """

    name: ClassVar[str] = "scale-turns"
    needs: ClassVar[tuple[type, ...]] = (PredictsScales,)
    weight: float = 1.0
    minor: float = 0.1

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, PredictsScales)
        sizes = backbone.scale_sizes()
        style, content = (attempt.error[:, scale_mask(s, sizes)].mean(1) for s in split_scales(len(sizes)))
        return content if step.number % 2 else style + self.minor * content


objectives.register("scale-error", ScaleError)
objectives.register("scale-turns", ScaleTurns)
