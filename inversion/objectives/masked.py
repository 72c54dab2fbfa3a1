"""Errors that count inside the reference's masks only; everywhere if it has none (Abdal et al. 2020, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.metrics.lpips import embedded_lpips


@dataclass(frozen=True)
class MaskedError(Objective):
    """The attempt's error times the mask, averaged over all of the picture: |M (G - x)|^2 / N (equation 2)."""

    name: ClassVar[str] = "masked-error"
    weight: float = 1.0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        error = attempt.error
        if attempt.mask is not None:
            error = error * resized(attempt.mask, error)
        return error.flatten(1).mean(1)


@dataclass(frozen=True)
class MaskedPerceptual(Objective):
    """LPIPS, its maps multiplied by the mask at their size: |M (F(G) - F(x))|^2 for each layer (equation 2)."""

    name: ClassVar[str] = "masked-perceptual"
    weight: float = 1.0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        lpips = embedded_lpips()
        target = attempt.reference.once("lpips-alex-parts", lambda images: tuple(lpips.parts(images)))
        found = lpips.parts(attempt.render())
        distances = [(a - b).square() for a, b in zip(found, target, strict=True)]
        if attempt.mask is not None:
            distances = [d * resized(attempt.mask, d) for d in distances]
        total = distances[0].flatten(1).sum(1)
        for distance in distances[1:]:
            total = total + distance.flatten(1).sum(1)
        return total


def resized(mask: Tensor, like: Tensor) -> Tensor:
    """Masks [N,1,H,W] at the size and precision of `like` [N,C,h,w]: the mean of what each pixel covers."""
    mask = mask.to(like.dtype)
    height, width = like.shape[-2:]
    return mask if mask.shape[-2:] == like.shape[-2:] else functional.adaptive_avg_pool2d(mask, (height, width))


objectives.register("masked-error", MaskedError)
objectives.register("masked-perceptual", MaskedPerceptual)
