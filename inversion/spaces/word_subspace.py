"""A word in a few directions of the vocabulary (Fei et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inversion.spaces.class_word import check_weight, class_row, class_text, held_rows, reads
from inversion.spaces.name_basis import principal
from unified.contract.abilities import Reads, TextComponent
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class WordSubspace(Space):
    """The class word's row plus sum_j a_j b_j over the principal directions of the vocabulary (Fei et al. 2023, 3).

    `<component>` [dimensions]: the coefficients a, in units of the vocabulary's standard deviation along each
    direction (the paper's prior normalisation); they start at 0. `row/<component>` [1, width] stays. Fewer
    dimensions where the rows are narrower.
    """

    name: ClassVar[str] = "word-subspace"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    dimensions: int = 256
    initial_text: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        words, tensors = class_text(reference, self.initial_text), {}
        for text in reads(view.backbone).texts():
            row = class_row(view.backbone, text, words)
            tensors[f"row/{text.component}"] = row
            tensors[text.component] = torch.zeros(len(self._directions(view.backbone, text)), dtype=row.dtype)
        return self.code(tensors)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        readers = {t.component: self._reader(view.backbone, code, t) for t in reads(view.backbone).texts()}
        view.name_rows(name, 1, readers)

    def _reader(self, backbone: Backbone, code: Code, text: TextComponent) -> Callable[[], Tensor]:
        directions, component = self._directions(backbone, text), text.component
        return lambda: code.tensors[f"row/{component}"] + code.tensors[component] @ directions

    def _directions(self, backbone: Backbone, text: TextComponent) -> Tensor:
        """[dimensions, width], each as long as the vocabulary's standard deviation along it."""
        embedding: Any = backbone.components[text.component].get_submodule(text.embedding)

        def compute() -> Tensor:
            return principal(embedding.weight.detach(), self.dimensions)[1]

        return backbone.once(("word-subspace", text.component, self.dimensions), compute)


spaces.register("word-subspace", WordSubspace)
