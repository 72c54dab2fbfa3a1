"""Textual spaces: what stands for the concept in a prompt (survey section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contract.backbone import Reads, TextComponent
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Word(Space):
    """Rows of the input embedding, one set for each text encoder (Gal et al. 2022, section 4).

    vectors: rows per encoder. initial_text: the word they start from; "": the reference's category.
    Tensors are `<component>` [vectors, width].
    """

    name: ClassVar[str] = "word"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    vectors: int = 1
    initial_text: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Reads)
        text = self.initial_text or reference.category
        if not text:
            raise UserError(
                "A word starts from the embedding of a class word, and none was given: pass category='person'"
                " (or what the pictures show)."
            )
        return self.code({t.component: self._rows(view, t, text, rng) for t in backbone.texts()})

    def _rows(self, view: View, text: TextComponent, words: str, rng: Random) -> Tensor:
        ids = text.tokenizer(words, add_special_tokens=False)["input_ids"]
        embedding: Any = view.backbone.components[text.component].get_submodule(text.embedding)
        rows: Tensor = embedding(torch.tensor(ids)).detach()
        mean = rows.mean(0, keepdim=True).repeat(self.vectors, 1)
        if self.vectors > 1:  # equal rows would get equal gradients for ever
            spread = embedding.weight.std()
            mean = mean + 0.1 * spread * rng.child(text.component).normal(range(self.vectors), mean.shape[1:])
        return mean.to(rows.dtype)

    def bind(self, view: View, code: Code, name: str) -> None:
        count = len(next(iter(code.tensors.values())))
        if view.binding.weight != 1.0:
            raise UserError(
                f"A word cannot be scaled ({name} has weight {view.binding.weight}): bind it with weight 1."
            )
        view.name_rows(name, count, {component: _reader(code, component) for component in code.tensors})


def _reader(code: Code, component: str) -> Callable[[], Tensor]:
    return lambda: code.tensors[component]


spaces.register("word", Word)
