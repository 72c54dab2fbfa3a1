"""Content and style of a picture as two words, each with a memory for the scales it lives in (CSD-VAR)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from unified.contract.scale_memory import Rectifies, RemembersScales, ScaleMemory, scale_mask
from unified.contract.space import Space, spaces
from unified.contract.tokens import PredictsScales
from unified.contract.view import View
from unified.errors import UserError

#: What else a picture of the class may show. The paper has a language model write them for each content; these
#: are for people.
VARIATIONS: tuple[str, ...] = (
    "a young {}",
    "an old {}",
    "a smiling {}",
    "a sad {}",
    "an angry {}",
    "a surprised {}",
    "a {} with short brown hair",
    "a {} with long blonde hair",
    "a {} with black hair",
    "a {} with red hair",
    "a {} with curly hair",
    "a {} with a beard",
    "a {} with a moustache",
    "a {} with glasses",
    "a {} with sunglasses",
    "a {} with pale skin",
    "a {} with dark skin",
    "a {} in a shirt",
    "a {} in a hoodie",
    "a {} in a blazer",
    "a {} in a hat",
    "two {}s",
)


def style_name(name: str) -> str:
    """What says the style in a prompt: "<me>.style"; the name itself says the content."""
    return f"{name}.style"


def split_scales(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(scales of style, scales of content), 0 the coarsest.

    Of ten scales style is in the first three and the last one, content between them (Nguyen et al. 2025, CSD-VAR,
    section 4.1); of other numbers in the same shares. Raises UserError for fewer than three.
    """
    if count < 3:
        raise UserError(f"This model has {count} scales; content and style are told apart from three on.")
    first, last = max(1, round(0.3 * count)), max(1, round(0.1 * count))
    style = (*range(first), *range(count - last, count))
    return style, tuple(range(first, count - last))


def _remembers(view: View) -> RemembersScales:
    backbone = view.backbone
    assert isinstance(backbone, RemembersScales)
    return backbone


def _sizes(view: View) -> Sequence[int]:
    backbone = view.backbone
    assert isinstance(backbone, PredictsScales)
    return backbone.scale_sizes()


@dataclass(frozen=True)
class ContentPart(Space):
    """The word of what is shown: `<component>` [vectors, width], `keys`, `values` [1, heads, entries, width].

    CSD-VAR (Nguyen et al. 2025), sections 4.1 and 4.3: `vectors` rows of the embedding, and keys and values that
    the first layer sees beside its own at the scales of content, where the prompt says the name. The rows start
    as the class word, keys and values uniformly near zero.
    """

    name: ClassVar[str] = "scale-content"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, PredictsScales, RemembersScales)
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.LIKELIHOOD})

    vectors: int = 4
    entries: int = 1
    initial_text: str = ""

    def said(self, name: str) -> str:
        """What says it in a prompt."""
        return name

    def scales(self, count: int) -> tuple[int, ...]:
        """The scales it lives in."""
        return split_scales(count)[1]

    def words(self, reference: Reference) -> str:
        """The text its rows start from."""
        return class_text(reference, self.initial_text)

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone, words = view.backbone, self.words(reference)
        self.scales(len(_sizes(view)))  # refuses before any work
        found: dict[str, Tensor] = {}
        for text in reads(backbone).texts():
            row = class_row(backbone, text, words).repeat(self.vectors, 1)
            embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
            noise = rng.child(text.component).normal(range(self.vectors), row.shape[1:], dtype=row.dtype)
            found[text.component] = row + 0.1 * embedding.weight.std() * noise
        _, heads, width = _remembers(view).scale_memory_shape()
        bound = math.sqrt(6 / (3 * sum(_sizes(view)) + heads * width))
        for part in ("keys", "values"):
            drawn = rng.child(part).uniform([0], (heads, self.entries, width))
            found[part] = (bound * (2 * drawn - 1)).to(backbone.dtype)
        return self.code(found)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        said = self.said(name)
        components = [text.component for text in reads(view.backbone).texts()]
        view.name_rows(said, self.vectors, {c: _reader(code, c) for c in components})
        layers = _remembers(view).scale_memory_shape()[0]
        sizes = _sizes(view)
        hidden = ~scale_mask(self.scales(len(sizes)), sizes)

        def read() -> ScaleMemory:
            keys, values = (_in_first(code.tensors[part], layers) for part in ("keys", "values"))
            bias = keys.new_zeros(layers, len(hidden), keys.shape[2]).masked_fill(hidden[:, None], -torch.inf)
            return ScaleMemory(keys, values, bias, said).in_layers([0])

        view.slot(f"scale-memory/{said}", code, read)


@dataclass(frozen=True)
class StylePart(ContentPart):
    """The word of how it is drawn, `NAME.style`, without what it would say of the content.

    CSD-VAR, section 4.2: as the content's, at the scales of style; and of what the text encoder says of it the
    projection on `directions` [rank, width] is taken away, the first right singular vectors of what the encoder
    says of `variations` of the content (`{}` is the class word).
    """

    name: ClassVar[str] = "scale-style"
    needs: ClassVar[tuple[type, ...]] = (Reads, PredictsScales, RemembersScales, Rectifies)

    initial_text: str = "cartoon"
    rank: int = 10
    variations: tuple[str, ...] = VARIATIONS

    def said(self, name: str) -> str:
        return style_name(name)

    def scales(self, count: int) -> tuple[int, ...]:
        return split_scales(count)[0]

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        code = super().initial(view, reference, rng=rng)
        backbone, word = view.backbone, class_text(reference)
        assert isinstance(backbone, Rectifies)
        with torch.no_grad():
            meanings = backbone.meaning(view, [text.replace("{}", word) for text in self.variations])
            directions = torch.linalg.svd(meanings.double(), full_matrices=False).Vh[: self.rank]
        code.tensors["directions"] = directions.to(meanings.dtype)
        return code

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return {**code.tensors, "directions": code.tensors["directions"].detach()}

    def bind(self, view: View, code: Code, name: str) -> None:
        if name not in view.rows:
            raise UserError(
                f"The style of {name} stands beside its content, which has no word here: invert in"
                " 'scale-content & scale-style', as the recipe 'csd-var' does."
            )
        super().bind(view, code, name)
        view.slot(f"taken-out/{style_name(name)}", code, lambda: code.tensors["directions"])


def _reader(code: Code, component: str) -> Callable[[], Tensor]:
    return lambda: code.tensors[component]


def _in_first(part: Tensor, layers: int) -> Tensor:
    """Keys or values [1, heads, entries, width] of the first of `layers` layers; zeros in the others."""
    return torch.cat([part, part.new_zeros(layers - 1, *part.shape[1:])])


spaces.register("scale-content", ContentPart)
spaces.register("scale-style", StylePart)
