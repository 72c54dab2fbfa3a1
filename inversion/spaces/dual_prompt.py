"""Soft tokens of two sorts, for drawing a concept and for talking about it (Yo'Chameleon)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inversion.spaces.class_word import check_weight, class_row, class_text, reads
from unified.contract.abilities import Reads
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError


def drawing_name(name: str, count: int) -> str:
    """What says the first `count` tokens for drawing in a prompt: "<me>:g4"."""
    return f"{name}:g{count}"


def understanding_name(name: str) -> str:
    """What says all tokens for understanding: "<me>:u"."""
    return f"{name}:u"


@dataclass(frozen=True)
class DualPrompt(Space):
    """A word, `generation` tokens for drawing it and `understanding` tokens for answering questions about it.

    Yo'Chameleon (Nguyen et al. 2025, Yo'Chameleon: Personalized Vision and Language Generation): "<sks> is
    <tokens>." stands before every request with <sks> in it. One set of tokens cannot serve both tasks as well as
    two can, and the paper lets the model say itself which of them it goes by (self-prompting), for which it also
    learns the output rows of the tokens. Here the call says which task it is, so each task is introduced with
    its own set and no output rows are needed. The first tokens count for the most pictures: a picture that
    merely resembles the concept is explained by fewer of them.

    Tensors are `<component>` [1 + generation + understanding, width]: the word starts as the class word, the
    tokens near it (0.1 deviations of the embedding, our choice).
    """

    name: ClassVar[str] = "dual-prompt"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads,)
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.LIKELIHOOD})

    generation: int = 16
    understanding: int = 16
    initial_text: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        if self.generation < 1 or self.understanding < 0:
            raise UserError(
                f"generation={self.generation} and understanding={self.understanding} tokens were asked for: learn at"
                " least one for drawing."
            )
        words, backbone = class_text(reference, self.initial_text), view.backbone
        found = {}
        for text in reads(backbone).texts():
            row = class_row(backbone, text, words)
            embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
            count = self.generation + self.understanding
            noise = rng.child(text.component).normal(range(count), row.shape[1:], dtype=row.dtype)
            found[text.component] = torch.cat([row, row + 0.1 * embedding.weight.std() * noise])
        return self.code(found)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A soft prompt")
        components = [text.component for text in reads(view.backbone).texts()]
        view.name_rows(name, 1 + self.generation + self.understanding, {c: _reader(code, c) for c in components})
        word, *tokens = view.rows[name]
        view.rows[name] = [word]
        for count in range(1, self.generation + 1):
            view.rows[drawing_name(name, count)] = tokens[:count]
        others = [f"{name}:g"]
        if self.understanding:
            view.rows[understanding_name(name)] = tokens[self.generation :]
            others.append(understanding_name(name))
        view.introduce(name, f"{name} is {drawing_name(name, self.generation)}.", instead=others)


def _reader(code: Code, component: str) -> Callable[[], Tensor]:
    return lambda: code.tensors[component]


spaces.register("dual-prompt", DualPrompt)
