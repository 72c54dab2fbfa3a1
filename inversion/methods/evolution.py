"""Evolution strategies over codes: inversion without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.black_box import Vector, not_one_vector
from inversion.methods.cma import CMAES
from inversion.objectives.error import Error
from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Member, Method, methods
from unified.contract.objective import Objective, Step
from unified.contract.random import Random
from unified.contract.recipe import verb
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.view import View
from unified.errors import UserError

_LARGEST = 2000  # dimensions: the covariance is a matrix of their square


@dataclass(frozen=True)
class Evolution(Method):
    """CMA-ES over the codes' tensors (Fei et al. 2023, Gradient-Free Textual Inversion, section 3).

    steps: generations. population: samples in each; None: 4 + 3 ln(dimensions). sigma: the first standard deviation,
    in units of the code. All samples of a generation see the same noise, levels and prompts, `draws` of them, so that
    their ranking is not one of luck. The codes end at the distribution's mean.
    """

    name: ClassVar[str] = "evolution"

    steps: int = 250
    population: int | None = 20
    sigma: float = 1.0
    draws: int = 1
    objectives: tuple[Objective, ...] = (Error(),)
    evidence: Evidence | None = None
    templates: tuple[str, ...] = ("{}",)

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if self.evidence is not None and self.evidence not in backbone.evidences:
            able = ", ".join(e.value for e in backbone.evidences)
            return f"it explains pictures by {self.evidence.value}, this backbone can only by {able}"
        for objective in self.objectives:
            missing = lacked(backbone, objective.needs)
            if missing:
                return f"the objective {objective.name!r} needs a backbone that {verb(missing)}"
        return not_one_vector(spaces)

    @torch.no_grad()
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        return [self._search(job, member, spaces) for member in job.members]

    def _search(self, job: Job, member: Member, spaces: Sequence[Space]) -> list[Code]:
        reference = member.reference
        with job.backbone.bound(member.concept()) as view:
            codes = [s.initial(view, reference, rng=job.rng.child("initial", s.name)) for s in spaces]
        losses: list[float] = []
        with job.backbone.bound(member.concept(codes)) as view:
            vector = Vector.of(view, spaces, codes, keys=reference.keys)
            start = vector.read()
            if len(start) > _LARGEST:
                raise UserError(
                    f"These codes have {len(start)} numbers; CMA-ES searches at most {_LARGEST}: use a smaller space"
                    " (such as 'word-subspace'), or the method 'optimize'."
                )
            search = CMAES(start, self.sigma, population=self.population)
            for objective in self.objectives:
                objective.prepare(view)
            job.progress.start(job.label, self.steps)
            try:
                for number in range(self.steps):
                    rng = job.rng.child("generation", number)
                    samples = search.ask(rng.normal(range(search.population), (len(start),), dtype=torch.float64))
                    found = torch.stack(
                        [self._loss(view, reference, vector, row, Step(number, self.steps), rng) for row in samples]
                    )
                    if not bool(torch.isfinite(found).all()):
                        job.log["stopped"] = f"a loss became NaN or infinite at generation {number}"
                        break
                    search.tell(samples, found)
                    losses.append(float(found.min()))
                    job.progress.advance(number + 1, loss=losses[-1])
            except KeyboardInterrupt:
                job.log["stopped"] = f"interrupted at generation {len(losses)} of {self.steps}"
                job.log["interrupted"] = True
            finally:
                job.progress.finish()
            vector.write(search.mean)
        job.log |= {"steps": len(losses), "losses": losses, "evaluations": len(losses) * search.population}
        return codes

    def _loss(
        self, view: View, reference: Reference, vector: Vector, values: Tensor, step: Step, rng: Random
    ) -> Tensor:
        vector.write(values)
        total = vector.prior(view)
        for draw in range(self.draws):
            own = rng.child("draw", draw)
            prompts = prompts_for(self.templates, reference, own)
            attempt = view.attempt(reference, rng=own.child("attempt"), prompts=prompts, evidence=self.evidence)
            terms = [o.weight * o(view, attempt, list(vector.codes), step) for o in self.objectives]
            total = total + torch.stack(terms).sum(0).double().mean() / self.draws
        return total


def prompts_for(templates: Sequence[str], reference: Reference, rng: Random) -> list[str]:
    """One template a picture, drawn by its stream, with the picture's caption and concept name."""
    chosen = rng.child("template").integers(reference.keys, 0, len(templates)).tolist()
    captions = reference.captions or ("",) * len(reference)
    return [
        templates[i].replace("{caption}", caption).replace("{}", name)
        for i, caption, name in zip(chosen, captions, reference.names, strict=True)
    ]


methods.register("evolution", Evolution)
