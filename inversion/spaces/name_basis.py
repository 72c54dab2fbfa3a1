"""A word in the space of well-known names (Celeb Basis, Yuan et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inversion.spaces.celebrities import NAMES
from inversion.spaces.class_word import check_weight, reads
from unified.contract.abilities import Reads, TextComponent
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError

_PARTS = 2  # first and last name
_FEWEST = 16


@dataclass(frozen=True)
class NameBasis(Space):
    """Two rows v_k = mean_k + sum_j a_kj b_kj over the principal directions of known names (section 3.2).

    `<component>` [2, dimensions]: the coefficients a, in units of each direction's standard deviation, of the
    first-name and last-name rows. They start at zero, the mean name. Only names that are two tokens for the text
    encoder count; an embedded model, which was taught no names, says what it knows people by. The coefficients are
    learnt themselves; the authors' mapper from face-recognition features to them is left out, as it needs such a
    network.
    """

    name: ClassVar[str] = "celeb-basis"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    dimensions: int = 512

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        found = {}
        for text in reads(view.backbone).texts():
            _, directions = self._basis(view.backbone, text)
            found[text.component] = torch.zeros(_PARTS, directions.shape[1], dtype=directions.dtype)
        return self.code(found)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        readers = {t.component: self._reader(view.backbone, code, t) for t in reads(view.backbone).texts()}
        view.name_rows(name, _PARTS, readers)

    def _reader(self, backbone: Backbone, code: Code, text: TextComponent) -> Callable[[], Tensor]:
        mean, directions = self._basis(backbone, text)
        return lambda: mean + torch.einsum("kj,kjw->kw", code.tensors[text.component], directions)

    def _basis(self, backbone: Backbone, text: TextComponent) -> tuple[Tensor, Tensor]:
        return backbone.once(
            ("name-basis", text.component, self.dimensions), lambda: name_basis(backbone, text, self.dimensions)
        )


def name_basis(backbone: Backbone, text: TextComponent, dimensions: int) -> tuple[Tensor, Tensor]:
    """(mean [2, width], scaled principal directions [2, dimensions, width]) of first and last names.

    Raises UserError if the text encoder knows too few of the names.
    """
    embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
    names = backbone.people or NAMES
    ids = two_token_names(text, names)
    if len(ids) < _FEWEST:
        raise UserError(
            f"The text encoder of {backbone.id} knows {len(ids)} of {len(names)} well-known names as two words of its"
            f" own, and at least {_FEWEST} are needed for a basis: use the space 'word'."
        )
    rows = embedding(torch.tensor(ids)).detach()  # [names, 2, width]
    parts = [principal(rows[:, k], dimensions) for k in range(_PARTS)]
    return torch.stack([mean for mean, _ in parts]), torch.stack([directions for _, directions in parts])


def two_token_names(text: TextComponent, names: Sequence[str]) -> list[list[int]]:
    """Ids of the names that are exactly two tokens."""
    every = [list(text.tokenizer(name, add_special_tokens=False)["input_ids"]) for name in names]
    return [ids for ids in every if len(ids) == _PARTS]


def principal(rows: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """(mean [width], directions [k, width], each as long as the rows' standard deviation along it)."""
    mean = rows.mean(0)
    _, values, directions = torch.linalg.svd((rows - mean).double(), full_matrices=False)
    kept = min(dimensions, len(rows) - 1, rows.shape[1])
    scaled = directions[:kept] * (values[:kept, None] / len(rows) ** 0.5)
    return mean, scaled.to(rows.dtype)


spaces.register("celeb-basis", NameBasis)
