"""Knowing the concept when it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.class_word import reads
from inversion.spaces.dual_prompt import understanding_name
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.reference import Reference
from unified.contract.tokens import Answers
from unified.contract.view import View
from unified.errors import UserError

#: A yes or no that is this much less likely than any word at all, in nats, was never learnt.
_MARGIN = 1.0


@dataclass(frozen=True)
class Recognition(Objective):
    """Nats of the right answer to "is this the concept?" about each picture of the mini-batch.

    Yo'LLaVA (Nguyen et al. 2024) and Yo'Chameleon (2025): yes for the reference's pictures, no for those that
    merely resemble it, which are the hard negatives. The tokens for understanding introduce the concept.

    shown: numbers of the pictures that do show it. question: `{}` is the name, `{tokens}` its tokens.
    """

    name: ClassVar[str] = "recognition"
    needs: ClassVar[tuple[type, ...]] = (Answers,)
    weight: float = 1.0
    shown: frozenset[int] = frozenset()
    question: str = "{} is {tokens}. is {} in this picture?"
    yes: str = "yes"
    no: str = "no"

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        backbone, reference = view.backbone, attempt.reference
        assert isinstance(backbone, Answers)
        questions = [
            self.question.replace("{tokens}", understanding_name(name)).replace("{}", name) for name in reference.names
        ]
        answers = [self.yes if index in self.shown else self.no for index in reference.index]
        return backbone.answer_error(view, reference, questions, answers)


def check_answers(backbone: Backbone, reference: Reference) -> None:
    """Raise UserError if the backbone can read questions about pictures but never learnt to answer them.

    A model that did says yes or no when it is asked whether the pictures show their category, rightly or not. One
    that did not gives both less probability than a word drawn blindly from its vocabulary; a few soft tokens
    do not teach a frozen model to speak. The test is ours: the papers' models answer to begin with.
    """
    assert isinstance(backbone, Answers)
    question = f"is this a {reference.category or backbone.category}?"
    with torch.no_grad(), backbone.bound() as view:
        found = min(
            float(backbone.answer_error(view, reference, [question] * len(reference), [word] * len(reference)).mean())
            for word in (Recognition.yes, Recognition.no)
        )
    blind = math.log(len(reads(backbone).texts()[0].tokenizer))
    if found > blind + _MARGIN:
        raise UserError(
            f"{backbone.id} was not trained to answer questions about pictures (neither yes nor no comes in less than"
            f" {found:.1f} nats, any word at all in {blind:.1f}), so it cannot learn to recognise a concept: use the"
            " recipe 'yo-chameleon-drawing', or the space 'dual-prompt' with understanding=0."
        )


objectives.register("recognition", Recognition)
