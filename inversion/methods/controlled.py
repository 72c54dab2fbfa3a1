"""RF-Inversion (Rout et al. 2024): the flow's ODE backwards, drawn towards a typical noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from inversion.methods.noise import denoiser, unfit
from unified.contract.abilities import Denoises, Flows
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.denoising.guided import guided
from unified.denoising.space import inverted
from unified.denoising.steps import deterministic


@dataclass(frozen=True)
class ControlledFlow(Method):
    """Algorithm 1 of Rout et al. 2024: Y += ds [u + gamma ((y1 - Y)/(1 - s) - u)] from the picture to noise.

    u = eps^ - x0^ is the flow under the empty prompt without guidance, y1 a standard normal sample. In terms of
    x = a x0 + s eps the controlled flow is that of eps^ + gamma (y1 - eps^). The levels climbed are those of the
    sampler itself, in reverse, so that the model is told the time of the very level it is at; the published FLUX
    code tells it i/N but steps along the shifted grid.
    gamma: 0 leaves the inversion alone (Euler), 1 goes straight to y1.
    """

    name: ClassVar[str] = "controlled-flow"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Flows)

    steps: int = 28
    gamma: float = 0.5

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return unfit(self, spaces, ["start-noise", "anchor"])

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        job.progress.start(job.label, self.steps)
        backbone, keys = denoiser(job), job.reference.keys
        with torch.no_grad(), job.open() as view:
            latents = x = backbone.encode(view, job.reference.images)
            noise = job.rng.child("noise").normal(keys, x.shape[1:], dtype=x.dtype)
            model = guided(backbone, view, [""] * len(x), 1.0)
            levels = list(backbone.levels(self.steps))[::-1]
            for number, (at, to) in enumerate(itertools.pairwise(levels), 1):
                _, eps = model.split(x, at)
                eps = eps + self.gamma * (noise - eps)
                x = deterministic((x - at.s * eps) / at.a, eps, to)
                job.progress.advance(number)
        job.progress.finish()
        return [
            [
                inverted(
                    space,
                    {"latents": tensor[rows.start : rows.stop]},
                    prompts=[""] * len(rows),
                    sampling={"steps": self.steps, "solver": "ddim"},
                    reconstruction={"guidance": 1.0},
                )
                for space, tensor in zip(spaces, (x, latents), strict=True)
            ]
            for rows in job.rows
        ]


methods.register(ControlledFlow.name, ControlledFlow)
