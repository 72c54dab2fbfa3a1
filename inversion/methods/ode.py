"""Training-free inversion of a diffusion or flow model: its sampling steps taken backwards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.backbone import Backbone, Denoises, Level
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.contract.view import View


@dataclass(frozen=True)
class InvertSteps(Method):
    """DDIM inversion (Song et al. 2021, section 4.3; Mokady et al. 2022, section 3): from data to start noise.

    x0^ = (x - s eps)/a at the present level, x' = a' x0^ + s' eps at the next noisier one, with the network
    asked at the level it goes to. That swaps eps(x') for eps(x), so the round trip errs by O(1/steps);
    `rounds` > 0 repeats each step from the x' it found (a fixed-point iteration), which removes the error
    where the iteration contracts. No guidance: with guidance the errors are amplified.

    prompt: description of the picture, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "invert-steps"
    needs: ClassVar[tuple[type, ...]] = (Denoises,)

    steps: int = 50
    prompt: str = "a portrait of a {}"
    rounds: int = 0

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if [space.name for space in spaces] != ["start-noise"]:
            return f"the method {self.name!r} finds start noise only: use the space 'start-noise' alone"
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        backbone = job.backbone
        assert isinstance(backbone, Denoises)
        job.progress.start(job.label, self.steps)
        reference = job.reference
        with torch.no_grad(), job.open() as view:
            x = backbone.encode(view, reference.images)
            prompts = [view.carry(self.prompt.replace("{}", name)) for name in reference.names]
            condition = backbone.condition(view, prompts)
            levels = list(reversed(backbone.levels(self.steps)))
            for number, (level, noisier) in enumerate(itertools.pairwise(levels), 1):
                x = self._climb(backbone, view, x, level, noisier, condition)
                job.progress.advance(number)
        job.progress.finish()
        job.log["steps"] = self.steps
        space = spaces[0]
        found = []
        for rows in job.rows:
            meta = {"settings": space.settings(), "steps": self.steps, "prompt": prompts[rows.start]}
            found.append([Code(space.name, {"latents": x[rows.start : rows.stop]}, True, meta)])
        return found

    def _climb(
        self, backbone: Denoises, view: View, x: Tensor, level: Level, noisier: Level, condition: object
    ) -> Tensor:
        a, s, a_next, s_next = (
            torch.tensor(value, dtype=x.dtype) for value in (level.a, level.s, noisier.a, noisier.s)
        )
        time = torch.full((len(x),), noisier.time, dtype=torch.float32)
        at, at_a, at_s = x, a, s
        result = x
        for _ in range(self.rounds + 1):
            output = backbone.predict(view, at, time, condition)
            _, eps = backbone.split(output, at, at_a, at_s)
            if at is not x:
                # From the second round on eps is that of the point arrived at: the exact inverse's equation.
                result = a_next * (x - s * eps) / a + s_next * eps if float(a) > 0 else result
            else:
                result = a_next * ((x - s * eps) / a) + s_next * eps
            at, at_a, at_s = result, a_next, s_next
        return result


methods.register("invert-steps", InvertSteps)
