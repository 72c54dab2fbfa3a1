"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): exact, training-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.noise import PROMPT, denoiser, prompts_of, unfit, unfit_solver
from unified.contract.abilities import Denoises
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.contract.view import View
from unified.denoising.guided import guided, middle
from unified.denoising.sampling import first_step
from unified.denoising.solvers import SOLVERS
from unified.denoising.space import inverted


@dataclass(frozen=True)
class EditFriendly(Method):
    """The noise that makes a stochastic sampler retrace x_t = a x0 + s eps_t, with an independent eps_t for each t.

    Algorithm 1 of the paper: the x_t are drawn first (section 3.2), then z_t = (x_{t-1} - mu_t(x_t)) / sigma_t.
    Kept is the offset x_{t-1} - mu_t(x_t) itself, and each next step begins from mu_t + offset as it rounds, so
    that sampling retraces it to the last bits and the last step, where sigma is 0, loses nothing.
    Written for any levels a, s, so for flows too, where the paper has diffusion only.

    solver: "ddpm" (the paper's), or "sde-dpm-solver++" (LEDITS++, Brack et al. 2024, section 3.1).
    guidance: of the mean mu under the source prompt. skip: share of the noisiest steps not to invert.
    prompt: description of pictures without captions, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "edit-friendly"
    needs: ClassVar[tuple[type, ...]] = (Denoises,)

    steps: int = 100
    guidance: float = 3.5
    skip: float = 0.0
    solver: str = "ddpm"
    prompt: str = PROMPT

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return unfit(self, spaces, ["noise-maps"]) or unfit_solver(backbone, self.solver, stochastic=True)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        job.progress.start(job.label, self.steps)
        with torch.no_grad(), job.open() as view:
            prompts = prompts_of(job, view, self.prompt)
            trajectory, offsets = self._retrace(job, view, prompts)
        job.progress.finish()
        # What a multistep solver does depends on where it began: only the same skip leads back.
        fixed = {"skip": self.skip} if SOLVERS[self.solver].multistep else {}
        return [
            [
                inverted(
                    spaces[0],
                    {"trajectory": trajectory[rows.start : rows.stop], "offsets": offsets[rows.start : rows.stop]},
                    prompts=prompts[rows.start : rows.stop],
                    sampling={"steps": self.steps, "solver": self.solver, **fixed},
                    reconstruction={"guidance": self.guidance, "skip": self.skip},
                )
            ]
            for rows in job.rows
        ]

    def _retrace(self, job: Job, view: View, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Latents before and offsets after each step, [pictures, steps from the first one on, *latent]."""
        backbone, keys = denoiser(job), job.reference.keys
        x0 = backbone.encode(view, job.reference.images)
        model = guided(backbone, view, prompts, self.guidance)
        levels = backbone.levels(self.steps)
        solver = SOLVERS[self.solver]()

        def noised(number: int) -> Tensor:
            if number == self.steps:
                return x0
            eps = job.rng.child("level", number).normal(keys, x0.shape[1:], dtype=x0.dtype)
            return levels[number].a * x0 + levels[number].s * eps

        first = first_step(self.skip, self.steps)
        x = noised(first)
        trajectory, offsets = [], []
        for number in range(first, self.steps):
            at, to = levels[number], levels[number + 1]
            mean = solver.step(model.split, x, at, to, middle(backbone, at, to))
            offset = noised(number + 1) - mean
            trajectory.append(x)
            offsets.append(offset)
            x = mean + offset
            job.progress.advance(number + 1)
        return torch.stack(trajectory, 1), torch.stack(offsets, 1)


methods.register(EditFriendly.name, EditFriendly)
