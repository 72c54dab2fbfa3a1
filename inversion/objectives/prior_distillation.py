"""What the model knew of the class, kept by distillation from itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Reads, Tokenises
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.random import Random
from unified.contract.target import Target
from unified.contract.view import View


@dataclass(frozen=True)
class PriorDistillation(Objective):
    """KL(untouched model || bound model) of every token of pictures of the class, in nats.

    Prior distillation of ARBooth (Chung et al. 2025): a model that is tuned on few pictures forgets what else
    its words mean. The pictures are drawn once by the untouched model with the class prompt, and explained with
    it by both.

    pictures: how many are drawn. prompt: of the class, `{category}` is filled in.
    """

    name: ClassVar[str] = "prior-distillation"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads)
    requires: ClassVar[frozenset[str]] = frozenset({"category"})
    weight: float = 0.5
    pictures: int = 4
    prompt: str = "a photo of a {category}"
    seed: int = 0
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises)
        text = self.prompt.replace("{category}", attempt.reference.category)
        prompts = [text] * self.pictures
        if not self._kept:
            with torch.no_grad(), view.backbone.bound() as untouched:
                drawn = untouched.sample(Target(prompt=text, n=self.pictures), rng=Random(self.seed).child("prior"))
                self._kept["codes"] = backbone.codes(untouched, drawn)
                logits = backbone.logits(untouched, prompts, self._kept["codes"])
                self._kept["teacher"] = logits.log_softmax(-1)
        student = backbone.logits(view, prompts, self._kept["codes"]).log_softmax(-1)
        teacher = self._kept["teacher"]
        divergence = (teacher.exp() * (teacher - student)).sum(-1).mean()
        return divergence.expand(len(attempt.reference))


objectives.register("prior-distillation", PriorDistillation)
