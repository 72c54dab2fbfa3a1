"""Textual spaces: what stands for the concept in a prompt (survey section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inversion.spaces.class_word import check_weight, class_row, class_rows, class_text, held_rows, reads
from unified.contract.abilities import Reads
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class Word(Space):
    """Rows of the input embedding, one set for each text encoder (Gal et al. 2022, section 4).

    vectors: rows per encoder. initial_text: the word they start from; "": the reference's category.
    with_category: the class word's row follows, unchanged, so that the name reads as "V* person" (Kumari et al.
    2023, section 3.1). Tensors are `<component>` [vectors, width], and then `row/<component>` [1, width].
    """

    name: ClassVar[str] = "word"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    vectors: int = 1
    initial_text: str = ""
    with_category: bool = False

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        words = class_text(reference, self.initial_text)
        backbone = view.backbone
        found = {}
        for text in reads(backbone).texts():
            rows = class_row(backbone, text, words).repeat(self.vectors, 1)
            if self.vectors > 1:  # equal rows would get equal gradients for ever
                embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
                noise = rng.child(text.component).normal(range(self.vectors), rows.shape[1:], dtype=rows.dtype)
                rows = rows + 0.1 * embedding.weight.std() * noise
            found[text.component] = rows
        return self.code({**found, **(class_rows(view, reference) if self.with_category else {})})

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        components = [text.component for text in reads(view.backbone).texts()]
        count = len(code.tensors[components[0]]) + int(self.with_category)
        view.name_rows(name, count, {c: self._reader(code, c) for c in components})

    def _reader(self, code: Code, component: str) -> Callable[[], Tensor]:
        if not self.with_category:
            return lambda: code.tensors[component]
        return lambda: torch.cat([code.tensors[component], code.tensors[f"row/{component}"]])


spaces.register("word", Word)
