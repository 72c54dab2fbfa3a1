"""Keeping what the backbone knew of the class (DreamBooth's prior preservation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Reads
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View


@dataclass(frozen=True)
class PriorPreservation(Objective):
    """The error on pictures of the class that the untouched backbone made (Ruiz et al. 2023, equation 2).

    pictures: how many are sampled, once, from `prompt` with the backbone's own sampler; `batch` of them count
    at each step. Every picture of the mini-batch gets the same value.
    """

    name: ClassVar[str] = "prior-preservation"
    requires: ClassVar[frozenset[str]] = frozenset({"category"})
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    weight: float = 1.0
    pictures: int = 100
    batch: int = 1
    prompt: str = "a photo of a {category}"
    seed: int = 0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        prompt = self.prompt.replace("{category}", attempt.reference.category)
        prior = class_pictures(view.backbone, prompt, self.pictures, self.seed)
        rng = Random(self.seed).child("prior", step.number)
        batch = prior.pick(sorted(rng.permutation(len(prior))[: self.batch]))
        explained = view.attempt(batch, rng=rng, prompts=[prompt] * len(batch))
        return explained.error.flatten(1).mean(1).mean().expand(len(attempt.error))


def class_pictures(backbone: Backbone, prompt: str, count: int, seed: int) -> Reference:
    """`count` pictures that the backbone alone makes of `prompt`; made once for a backbone."""

    def sample() -> Reference:
        made = []
        with backbone.bound() as view:
            for first in range(0, count, 8):
                rng = Random(seed).child("class pictures", first)
                made.append(view.sample(Target(prompt=prompt, n=min(8, count - first)), rng=rng))
        return Reference(torch.cat(made))

    return backbone.once(("class pictures", prompt, count, seed), sample)


objectives.register("prior-preservation", PriorPreservation)
