"""Keeping a tuned generator as it was away from the pivot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.objectives.distribution import bound_styles
from unified.contract.abilities import Maps, Renders
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.random import Random
from unified.contract.view import View
from unified.metrics.lpips import embedded_lpips


@dataclass(frozen=True)
class Locality(Objective):
    """PTI's locality regulariser (Roich et al. 2022, section 3.2, equations 4 and 5).

        w_r = w_p + alpha (w_z - w_p) / |w_z - w_p|,  w_z = the mapping of a random z, anew in each step
        L_R = LPIPS(x_r, x_r*) + pixels * |x_r - x_r*|^2,  x_r, x_r* = the tuned and the untuned picture of w_r

    alpha: how far from the pivot, in units of W. pixels: weight of the squared pixels, 0..1. Each picture has
    a w_r of its own. Noise maps are those of the pivot in both pictures. seed: of the random latents.
    """

    name: ClassVar[str] = "locality"
    needs: ClassVar[tuple[type, ...]] = (Renders, Maps)
    weight: float = 0.1
    alpha: float = 30.0
    pixels: float = 1.0
    seed: int = 0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, Renders) and isinstance(backbone, Maps)
        pivot = bound_styles(view, attempt, self.name).detach()
        keys = attempt.reference.keys
        rng = Random(self.seed).child("locality", step.number)
        z = rng.normal(keys, (backbone.latent_width(),), dtype=pivot.dtype)
        noise = view.slots["noise"].rows(attempt.reference.index) if "noise" in view.slots else None
        lpips = embedded_lpips()
        with view.backbone.bound() as pristine:
            with torch.no_grad():
                moved = beside(pivot, backbone.map_latents(pristine, z), alpha=self.alpha)
                before = backbone.render(pristine, moved, noise)
                target = lpips.features(before)
        after = backbone.render(view, moved, noise)
        pixels = (after - before).square().flatten(1).mean(1)
        return lpips.distance(lpips.features(after), target) + self.pixels * pixels


def beside(pivot: Tensor, towards: Tensor, *, alpha: float) -> Tensor:
    """Equation 4 for each layer: pivot [N, number, width] moved by `alpha` towards w [N, width]."""
    way = towards.unsqueeze(1) - pivot
    return pivot + alpha * way / way.norm(dim=2, keepdim=True).clamp(min=1e-12)


objectives.register("locality", Locality)
