"""Likeness of texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inversion.objectives.masked import resized
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.metrics.lpips import embedded_lpips


@dataclass(frozen=True)
class Style(Objective):
    """A quarter of the mean squared difference of the Gram matrices of features (Gatys et al. 2016, equation 4, as
    Abdal et al. 2020 use it on one layer). Where the reference has masks, only features inside count.

    About 500 between unrelated pictures, so weights are small.

    layer: which of AlexNet's five activations, counted from 0. The paper takes conv3_3 of VGG-16; ours is the
    trunk of the embedded LPIPS, whose third activation lies as deep.
    """

    name: ClassVar[str] = "style"
    weight: float = 5e-5
    layer: int = 2

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        activations = embedded_lpips().activations
        target = attempt.reference.once(("style", self.layer), lambda images: activations(images)[self.layer])
        found = activations(attempt.render())[self.layer]
        if attempt.mask is not None:
            mask = resized(attempt.mask, found)
            found, target = found * mask, target * mask
        return (gram(found) - gram(target)).square().flatten(1).mean(1) / 4


def gram(features: Tensor) -> Tensor:
    """Correlations of channels: features [N,C,h,w] -> F F^T / (h w), [N,C,C]."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


objectives.register("style", Style)
