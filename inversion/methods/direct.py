"""Direct inversion (Ju et al. 2023, PnP Inversion): the reconstruction branch is corrected at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.noise import PROMPT, denoiser, pivots, prompts_of, unfit
from unified.contract.abilities import Denoises
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.denoising.guided import guided
from unified.denoising.space import inverted
from unified.denoising.steps import deterministic


@dataclass(frozen=True)
class DirectInversion(Method):
    """Algorithm 1 of the paper: what each guided step under the source prompt misses the DDIM inversion's path by.

    Exact by construction, for any network and guidance: the correction is kept as it rounds. It belongs to the
    source branch alone; the target branch starts from the same noise and is not corrected.
    prompt: description of pictures without captions, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "direct"
    needs: ClassVar[tuple[type, ...]] = (Denoises,)

    steps: int = 50
    guidance: float = 7.5
    prompt: str = PROMPT

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return unfit(self, spaces, ["start-noise", "differences"])

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        job.progress.start(job.label, 2 * self.steps)
        with torch.no_grad(), job.open() as view:
            prompts = prompts_of(job, view, self.prompt)
            path, levels = pivots(job, view, prompts, steps=self.steps)
            model = guided(denoiser(job), view, prompts, self.guidance)
            x, differences = path[0], list[Tensor]()
            for number in range(self.steps):
                landed = deterministic(*model.split(x, levels[number]), levels[number + 1])
                differences.append(path[number + 1] - landed)
                x = landed + differences[-1]
                job.progress.advance(self.steps + number + 1)
        job.progress.finish()
        found = ({"latents": path[0]}, {"differences": torch.stack(differences, 1)})
        return [
            [
                inverted(
                    space,
                    {name: value[rows.start : rows.stop] for name, value in tensors.items()},
                    prompts=prompts[rows.start : rows.stop],
                    sampling={"steps": self.steps, "solver": "ddim"},
                    reconstruction={"guidance": self.guidance},
                )
                for space, tensors in zip(spaces, found, strict=True)
            ]
            for rows in job.rows
        ]


methods.register(DirectInversion.name, DirectInversion)
