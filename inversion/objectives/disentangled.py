"""What keeps DisenBooth's two branches apart (Chen et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from inversion.objectives.text_meaning import say
from inversion.spaces.disenbooth import BRANCH, TwoBranches, irrelevant
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Reads, Speaks
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.random import Random
from unified.contract.view import View
from unified.errors import UserError


def _branches(codes: list[Code], objective: str) -> list[Code]:
    found = [code for code in codes if code.space == TwoBranches.name]
    if not found:
        raise UserError(f"The objective {objective!r} is about the space 'disenbooth', which is not learnt here.")
    return found


@dataclass(frozen=True)
class WeakDenoising(Objective):
    """The weak denoising loss: the error under f_i alone, so that a picture's own branch says what it can.

    Noise and levels are drawn anew; the authors take those of the main term, which has the same mean.
    """

    name: ClassVar[str] = "weak-denoising"
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    weight: float = 0.01
    seed: int = 0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        own = _branches(codes, self.name)
        before = [code.tensors for code in own]
        reference = attempt.reference
        rng = Random(self.seed).child("weak", step.number)
        try:
            for code in own:
                code.tensors = {**code.tensors, BRANCH: torch.tensor(1)}
            alone = view.attempt(reference, rng=rng, prompts=list(reference.names))
        finally:
            for code, tensors in zip(own, before, strict=True):
                code.tensors = tensors
        return alone.error.flatten(1).mean(1)


@dataclass(frozen=True)
class ContrastiveEmbedding(Objective):
    """The contrastive embedding loss: cos(f_s, f_i), f_s the mean over its tokens; they shall not say the same."""

    name: ClassVar[str] = "contrastive-embedding"
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    weight: float = 0.001
    template: str = "a photo of {}"

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        rows = []
        names = list(dict.fromkeys(attempt.reference.names))
        for name, code in zip(names, _branches(codes, self.name), strict=True):
            total = torch.zeros(())
            for component, width in speaks(view.backbone).text_outputs().items():
                text, _ = say(view, component, [self.template.format(name)])
                own = irrelevant(code, component, width)
                total = total + functional.cosine_similarity(text.mean(1), own.to(text.dtype))
            rows.append(total)
        return torch.cat(rows)


objectives.register("weak-denoising", WeakDenoising)
objectives.register("contrastive-embedding", ContrastiveEmbedding)
