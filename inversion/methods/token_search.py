"""Gradient-free search over discrete visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.objectives.error import Error
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Method, methods
from unified.contract.objective import Objective, Step
from unified.contract.space import Space
from unified.contract.tokens import Quantises
from unified.contract.view import View


@dataclass(frozen=True)
class TokenSearch(Method):
    """Coordinate descent: one place after the other tries the codes nearest to its latent, keeping the best.

    The nearest code is best for the latent alone; which one is best for the picture depends on its neighbours,
    through the decoder. The loss never grows; it stops when a whole round changes nothing.

    rounds: most passes over all places. neighbours: codes tried at each. objectives: terms of the loss, of the
    rendered picture.
    """

    name: ClassVar[str] = "token-search"
    needs: ClassVar[tuple[type, ...]] = (Quantises,)

    rounds: int = 2
    neighbours: int = 4
    objectives: tuple[Objective, ...] = (Error(),)

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if [space.name for space in spaces] != ["tokens"]:
            return f"the method {self.name!r} searches visual tokens only: use the space 'tokens' alone"
        if Evidence.RENDER not in backbone.evidences:
            return f"the method {self.name!r} needs a backbone that renders the tokens it tries"
        return None

    @torch.no_grad()
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        space = spaces[0]
        found = []
        changed = 0
        for member in job.members:
            with job.open() as view:
                code = space.initial(view, member.reference, rng=job.rng.child("initial", space.name))
            with job.backbone.bound(member.concept([code])) as view:
                changed += self._search(view, job, code)
            found.append([code])
        job.log["changed"] = changed
        return found

    def _search(self, view: View, job: Job, code: Code) -> int:
        """Descend in place; returns how many tokens were changed."""
        backbone = view.backbone
        assert isinstance(backbone, Quantises)
        tokens = code.tensors["tokens"].clone()
        start = tokens.clone()
        candidates = backbone.candidates(view, job.reference.images, self.neighbours)
        _, height, width = tokens.shape
        best = self._loss(view, job, code, tokens)
        total = self.rounds * height * width
        job.progress.start(job.label, total)
        for round_number in range(self.rounds):
            before = tokens.clone()
            for place in range(height * width):
                y, x = divmod(place, width)
                for choice in range(candidates.shape[1]):
                    tried = tokens.clone()
                    tried[:, y, x] = candidates[:, choice, y, x]
                    loss = self._loss(view, job, code, tried)
                    better = loss < best
                    tokens[better] = tried[better]
                    best = torch.where(better, loss, best)
                job.progress.advance(round_number * height * width + place + 1, loss=float(best.mean()))
            if torch.equal(before, tokens):
                break
        job.progress.finish()
        code.tensors = {"tokens": tokens}
        job.log["losses"] = [float(value) for value in best]
        return int((tokens != start).sum())

    def _loss(self, view: View, job: Job, code: Code, tokens: Tensor) -> Tensor:
        """[N] of these tokens."""
        code.tensors = {"tokens": tokens}
        rng = job.rng.child("attempt")
        attempt = view.attempt(job.reference, rng=rng, evidence=Evidence.RENDER)
        step = Step(0, 1)
        return torch.stack([o.weight * o(view, attempt, [code], step) for o in self.objectives]).sum(0)


methods.register("token-search", TokenSearch)
