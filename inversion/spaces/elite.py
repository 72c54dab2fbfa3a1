"""A picture as a word, and its patches beside the text where the word is looked at (ELITE, Wei et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from inversion.spaces.beside_text import Part, put_beside
from inversion.spaces.class_word import reads
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Attends, Reads, ReadsByLayer, Speaks
from unified.contract.attention import Attention
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import PictureEncoder, check_signature, encoder_of, signed


class WordsAndPatches(PictureEncoder, Protocol):
    """What the space asks of the encoder that was trained for the backbone."""

    def encode(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]: ...

    def matrices(self) -> dict[str, tuple[Tensor, Tensor]]: ...

    def add(self, call: Attention, said: Tensor, patches: Tensor) -> Tensor: ...


@dataclass
class PatchPart(Part):
    """strength times the local attention to the concept's patches; its tokens say where its word stands."""

    encoder: WordsAndPatches
    code: Code
    strength: float

    def add(self, call: Attention, own: Tensor) -> Tensor | None:
        if self.strength == 0.0:
            return None
        return self.strength * self.encoder.add(call, own[..., 0], self.code.tensors["patches"].unsqueeze(0))


@dataclass(frozen=True)
class WordAndPatches(Space):
    """`words` [layers, width] of the global mapping, `patches` [tokens, width] of the local one (section 3).

    The name stands for the primary word alone, which is the one that can be edited; all_words lets it
    stand for all of them, as half of the training. Cross-attention makes text into keys and values by the
    encoder's matrices. local: the paper's lambda, times the concept's weight. Several
    pictures: the words' mean, and all their patches; the paper has one.
    """

    name: ClassVar[str] = "elite"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.REPLACE
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks, Attends, ReadsByLayer)
    encodes: ClassVar[bool] = True

    weights: str = ""
    local: float = 0.8
    all_words: bool = False

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        _one_encoder(view.backbone)
        encoder: WordsAndPatches = encoder_of(view.backbone, self.name, self.weights)
        words, patches = encoder.encode(reference.images, reference.masks)
        return self.code({"words": words.mean(0), "patches": patches.flatten(0, 1).clone()}, **signed(encoder))

    def bind(self, view: View, code: Code, name: str) -> None:
        component = _one_encoder(view.backbone)
        encoder: WordsAndPatches = encoder_of(view.backbone, self.name, self.weights)
        check_signature(code, encoder, name)
        count = len(code.tensors["words"]) if self.all_words else 1
        view.name_rows(name, count, {component: lambda: code.tensors["words"][:count]})
        backbone = view.backbone
        assert isinstance(backbone, Attends)
        module, _ = backbone.text_matrices()
        for place, (key, value) in encoder.matrices().items():
            view.replace(module, f"{place}.to_k.weight", _instead(key))
            view.replace(module, f"{place}.to_v.weight", _instead(value))
        tokens = next(text.length for text in reads(backbone).texts())
        part = PatchPart(tokens, encoder, code, self.local * view.binding.weight)
        put_beside(view, part, {component: _marks(view, name)})


def _instead(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda base: matrix.to(base.dtype)


def _marks(view: View, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Appends one token for each of the text's: ones where the primary word stands, zeros elsewhere."""

    def change(output: Tensor, ids: Tensor) -> Tensor:
        first = ids == view.rows[name][0]
        marks = first.unsqueeze(-1).to(output.dtype).expand(-1, -1, output.shape[-1])
        return torch.cat([output, marks], 1)

    return change


def _one_encoder(backbone: Backbone) -> str:
    """The text encoder. Raises UserError for backbones with several."""
    components = list(speaks(backbone).text_outputs())
    if len(components) != 1:
        raise UserError(f"ELITE maps to the words of one text encoder; {backbone.id} has {len(components)}.")
    return components[0]


spaces.register("elite", WordAndPatches)
