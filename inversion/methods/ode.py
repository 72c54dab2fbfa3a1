"""Training-free inversion of a diffusion or flow model: its sampling steps taken backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from inversion.methods.noise import PROMPT, pivots, prompts_of, unfit, unfit_solver
from unified.contract.abilities import Denoises
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.denoising.space import inverted


@dataclass(frozen=True)
class InvertSteps(Method):
    """The deterministic sampler backwards, from data to start noise, without guidance (which amplifies errors).

    solver: "ddim" (Song et al. 2021, section 4.3), whose round trip errs by O(1/steps), because it puts eps(x)
    for eps(x'); `rounds` > 0 repeats each of its steps from the x' it found, which removes the error where the
    iteration contracts. "dpm-solver++" (Lu et al. 2022) and, on flows, "rf-solver" (Wang et al. 2024) err by
    O(1/steps^2).
    prompt: description of pictures without captions, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "invert-steps"
    needs: ClassVar[tuple[type, ...]] = (Denoises,)

    steps: int = 50
    prompt: str = PROMPT
    rounds: int = 0
    solver: str = "ddim"

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if self.rounds and self.solver != "ddim":
            return "rounds are a repetition of the solver 'ddim': leave them out, or use that solver"
        return unfit(self, spaces, ["start-noise"]) or unfit_solver(backbone, self.solver, stochastic=False)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        job.progress.start(job.label, self.steps)
        with job.open() as view:
            prompts = prompts_of(job, view, self.prompt)
            path, _ = pivots(job, view, prompts, steps=self.steps, solver=self.solver, rounds=self.rounds)
        job.progress.finish()
        return [
            [
                inverted(
                    spaces[0],
                    {"latents": path[0][rows.start : rows.stop]},
                    prompts=prompts[rows.start : rows.stop],
                    sampling={"steps": self.steps, "solver": self.solver},
                    reconstruction={"guidance": 1.0},
                )
            ]
            for rows in job.rows
        ]


methods.register("invert-steps", InvertSteps)
