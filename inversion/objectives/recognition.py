"""Knowing the concept when it is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inversion.spaces.dual_prompt import understanding_name
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.tokens import Answers
from unified.contract.view import View


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


objectives.register("recognition", Recognition)
