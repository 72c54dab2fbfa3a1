"""Losses on what the text encoder says: Cones 2's preservation and ClassDiffusion's semantic preservation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from unified.contract.abilities import Attends, Reads, Speaks
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.random import Random
from unified.contract.view import View

SENTENCES: tuple[str, ...] = (
    "a photo of a {}",
    "a {} in the snow",
    "a painting of a {}",
    "a {} beside a red car",
    "two friends look at a {}",
    "a black and white picture of a {}",
    "a {} on a green field",
    "the {} is reading a book",
)


def say(view: View, component: str, prompts: list[str]) -> tuple[Tensor, Tensor]:
    backbone = view.backbone
    assert isinstance(backbone, Speaks)
    return backbone.say(view, component, prompts)


def components(backbone: Backbone) -> list[str]:
    assert isinstance(backbone, Speaks)
    return list(backbone.text_outputs())


@dataclass(frozen=True)
class TextPreservation(Objective):
    """Every token but the class word's keeps its output (Liu et al. 2023, Cones 2, equation 3).

    mean |E'(p)_j - E(p)_j|^2 over the tokens j of a sentence p that are not the class word's; one sentence of
    a small set is drawn a step.
    """

    name: ClassVar[str] = "text-preservation"
    requires: ClassVar[frozenset[str]] = frozenset({"category"})
    needs: ClassVar[tuple[type, ...]] = (Attends, Speaks)

    weight: float = 1.0

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone = view.backbone
        assert isinstance(backbone, Attends)
        number = int(Random(0).child("sentence").integers([step.number], 0, len(SENTENCES)))
        prompt = SENTENCES[number].format(attempt.reference.category)
        total = torch.zeros(())
        for component in components(view.backbone):
            tuned, _ = say(view, component, [prompt])
            with view.backbone.bound() as plain, torch.no_grad():
                before, _ = say(plain, component, [prompt])
                other = ~backbone.token_places(plain, [prompt], attempt.reference.category)
            total = total + (tuned - before)[other].square().mean()
        return total.expand(len(attempt.error))


@dataclass(frozen=True)
class SemanticPreservation(Objective):
    """The phrase with the concept's name means what the class phrase means (Huang et al. 2024, section 4.2).

    1 - cosine of the text encoder's outputs behind the end of "a photo of V* class" and "a photo of a class".
    """

    name: ClassVar[str] = "semantic-preservation"
    requires: ClassVar[frozenset[str]] = frozenset({"category"})
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    weight: float = 1.0
    template: str = "a photo of {}"

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        reference = attempt.reference
        rows = []
        for name in reference.names:
            total = torch.zeros(())
            for component in components(view.backbone):
                own = meaning(*say(view, component, [view.carry(self.template.format(name))]))
                with torch.no_grad(), view.backbone.bound() as plain:
                    text = self.template.format(f"a {reference.category}")
                    other = meaning(*say(plain, component, [text]))
                total = total + 1 - functional.cosine_similarity(own, other).squeeze(0)
            rows.append(total)
        return torch.stack(rows)


def meaning(output: Tensor, ids: Tensor) -> Tensor:
    """The outputs [N, width] where the padding begins: they have seen the whole sentence and hold no word of it."""
    begin = (ids == ids[:, -1:]).int().argmax(1)
    return output[torch.arange(len(output)), begin]


objectives.register("text-preservation", TextPreservation)
objectives.register("semantic-preservation", SemanticPreservation)
