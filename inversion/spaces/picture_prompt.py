"""Pictures as a second prompt beside the text (IP-Adapter, Ye et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inversion.spaces.beside_text import Part, put_beside
from inversion.spaces.class_word import class_rows, held_rows, read_as_class, said
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Attends, Reads, ReadsByLayer, Speaks
from unified.contract.attention import Attention
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import PictureEncoder, check_signature, encoder_of, signed


class PicturePrompter(PictureEncoder, Protocol):
    """What the space asks of the encoder that was trained for the backbone."""

    @property
    def absent(self) -> Tensor:
        """The tokens [1, T, width] that stand for no picture."""
        ...

    def encode(self, images: Tensor) -> Tensor: ...

    def tokens(self, features: Tensor) -> Tensor:
        """Features of N pictures -> [N, T, width]; width is that of the text that cross-attention reads."""
        ...

    def keys_values(self, place: str, tokens: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass
class PicturePart(Part):
    """Decoupled cross-attention (Ye et al. 2023): scale Attn(Q, K', V'), keys and values of the concept's tokens."""

    encoder: PicturePrompter
    scale: float
    places: str

    def add(self, call: Attention, own: Tensor) -> Tensor | None:
        if self.scale == 0.0 or not re.search(self.places, call.place.name):
            return None
        heads = call.query.shape[1]
        key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in self.encoder.keys_values(call.place.name, own)
        )
        return self.scale * functional.scaled_dot_product_attention(call.query, key, value)


@dataclass(frozen=True)
class PicturePrompt(Space):
    """Features of the reference pictures, read through keys and values of their own (Ye et al. 2023, 3.2).

    `features` [pictures, ...] of the adapter's image encoder, and `row/<component>` [1, width]: the name is read
    as the class word, and prompts that do not say it see the tokens of no picture, as the adapter was trained.
    weights: the adapter's file, or "" for the one that belongs to the backbone. scale: the paper's lambda, times
    the concept's weight. places: of the cross-attentions that the pictures act in (a regular expression).
    """

    name: ClassVar[str] = "ip-adapter"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks, Attends, ReadsByLayer)
    encodes: ClassVar[bool] = True

    weights: str = ""
    scale: float = 1.0
    places: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        encoder: PicturePrompter = encoder_of(view.backbone, self.name, self.weights)
        features = encoder.encode(reference.images).clone()
        return self.code({"features": features, **class_rows(view, reference)}, **signed(encoder))

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        encoder: PicturePrompter = encoder_of(view.backbone, self.name, self.weights)
        check_signature(code, encoder, name)
        widths = speaks(view.backbone).text_outputs()
        if encoder.absent.shape[-1] != sum(widths.values()):
            raise UserError(
                f"The picture tokens are {encoder.absent.shape[-1]} wide, the text {sum(widths.values())}: the adapter"
                " was made for another model."
            )
        read_as_class(view, code, name)
        count = len(code.tensors["features"]) * encoder.absent.shape[1]
        changes, start = {}, 0
        for component, width in widths.items():
            changes[component] = _append(view, code, name, encoder, slice(start, start + width))
            start += width
        put_beside(view, PicturePart(count, encoder, self.scale * view.binding.weight, self.places), changes)


def _append(
    view: View, code: Code, name: str, encoder: PicturePrompter, columns: slice
) -> Callable[[Tensor, Tensor], Tensor]:
    """Lets the pictures' tokens follow a text that says the name, and those of no picture any other."""

    def change(output: Tensor, ids: Tensor) -> Tensor:
        here = said(view, name, ids).any(1)[:, None, None]
        tokens = encoder.tokens(code.tensors["features"])
        own = tokens.flatten(0, 1)[None, :, columns].to(output.dtype)
        none = encoder.absent.expand(len(tokens), -1, -1).flatten(0, 1)[None, :, columns].to(output.dtype)
        return torch.cat([output, torch.where(here, own, none)], 1)

    return change


spaces.register("ip-adapter", PicturePrompt)
