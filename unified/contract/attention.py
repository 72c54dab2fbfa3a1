"""Attention of a network, open to editors.

An editor sees each call of each attention it wants: it may change what keys and values are made from, the
queries, keys and values, and the probabilities. The network's own projections are always called, so whatever
else is bound (low-rank changes, replaced weights, words) passes through. With no editor for a place the
arithmetic is the backbone's own, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from unified.contract.view import View


@dataclass(frozen=True)
class Place:
    """One attention of a network.

    name: path of its module. kind: "self" (picture to picture), "cross" (picture to text) or "joint" (both
    kinds of tokens in one sequence). number: its place among those of its kind, in the order of the calls.
    """

    name: str
    kind: Literal["self", "cross", "joint"]
    number: int


@dataclass
class Attention:
    """One call. query [B, heads, queries, width], key and value [B, heads, keys, width]; rows as in `predict`.

    time: [B] in 0..1, 1 is pure noise. size: height and width of the grid of picture tokens.
    picture, text: which keys are picture tokens and which text; picture_queries: which queries are picture.
    """

    place: Place
    time: Tensor
    size: tuple[int, int]
    query: Tensor
    key: Tensor
    value: Tensor
    picture: slice
    text: slice
    picture_queries: slice


class Editor:
    """Sees and changes attention; subclasses override what they need."""

    def wants(self, place: Place) -> bool:
        """Whether calls at this place come to this editor."""
        return True

    def inputs(self, place: Place, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What keys and values are projected from, [B, tokens, width] each; cross-attention only."""
        return keys, values

    def project(self, call: Attention) -> None:
        """Read or replace the call's query, key and value."""

    def probabilities(self, call: Attention, probabilities: Tensor) -> Tensor:
        """The probabilities [B, heads, queries, keys] to use; overriding this turns the fused kernel off."""
        return probabilities

    def output(self, call: Attention, mixed: Tensor) -> Tensor:
        """What the attention gives, [B, heads, queries, width], before the network's output projection."""
        return mixed


def reads_probabilities(editor: Editor) -> bool:
    return type(editor).probabilities is not Editor.probabilities


@dataclass
class Attending:
    """A view's editors, and where its network is: set by the backbone at each call of the network.

    texts: for each cross-attention its own (keys, values) text, [B, layers, tokens, width], or None.
    """

    editors: list[Editor] = field(default_factory=list)
    time: Tensor = field(default_factory=lambda: torch.zeros(1))
    latent_size: tuple[int, int] = (1, 1)
    text_tokens: int = 0
    texts: tuple[Tensor, Tensor] | None = None

    def begin(self, time: Tensor, latent_size: tuple[int, int], *, text_tokens: int = 0) -> None:
        """A call of the network: time [B] in 0..1, size of the latents, text tokens of a joint sequence."""
        self.time, self.latent_size, self.text_tokens = time, latent_size, text_tokens

    def at(self, place: Place) -> list[Editor]:
        return [editor for editor in self.editors if editor.wants(place)]

    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of `tokens` picture tokens, of the latents' proportions."""
        height, width = self.latent_size
        shrink = math.sqrt(height * width / tokens)
        found = round(height / shrink), round(width / shrink)
        return found if found[0] * found[1] == tokens else (1, tokens)


class OwnText(Editor):
    """Gives each cross-attention its own text (Voynov et al. 2023, section 3.1), where the view has such."""

    def __init__(self, attending: Attending) -> None:
        self.attending = attending

    def wants(self, place: Place) -> bool:
        return place.kind == "cross" and self.attending.texts is not None

    def inputs(self, place: Place, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        texts = self.attending.texts
        assert texts is not None
        own = [text[:, place.number if text.shape[1] > 1 else 0] for text in texts]
        return own[0].to(keys.dtype), own[1].to(values.dtype)


def attend(call: Attention, editors: Sequence[Editor], *, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention as the editors want it, [B, heads, queries, width]."""
    for editor in editors:
        editor.project(call)
    readers = [editor for editor in editors if reads_probabilities(editor)]
    if not readers:
        mixed = functional.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=mask)
        return _after(call, editors, mixed)
    logits = call.query @ call.key.transpose(-1, -2) / math.sqrt(call.query.shape[-1])
    probabilities = (logits if mask is None else logits + mask).softmax(-1)
    for editor in readers:
        probabilities = editor.probabilities(call, probabilities)
    return _after(call, editors, probabilities @ call.value)


def _after(call: Attention, editors: Sequence[Editor], mixed: Tensor) -> Tensor:
    for editor in editors:
        mixed = editor.output(call, mixed)
    return mixed


class MapRecorder(Editor):
    """Keeps how much each picture token attends to each text token: mean over heads and layers.

    Of all grids that occur, the one whose side is nearest to a quarter of the latents' (16 of 64) is used, as
    in Hertz et al. 2022 and Avrahami et al. 2023.
    """

    def __init__(self, attending: Attending) -> None:
        self.attending = attending
        self.seen: dict[tuple[int, int], list[Tensor]] = {}

    def wants(self, place: Place) -> bool:
        return place.kind != "self"

    def probabilities(self, call: Attention, probabilities: Tensor) -> Tensor:
        to_text = probabilities[:, :, call.picture_queries, call.text].mean(1)
        self.seen.setdefault(call.size, []).append(to_text)
        return probabilities

    def clear(self) -> None:
        self.seen.clear()

    def maps(self) -> Tensor:
        """[B, text tokens, height, width] of all calls since the last `clear`."""
        wanted = math.log(self.attending.latent_size[0] / 4)
        size = min(self.seen, key=lambda s: abs(math.log(s[0]) - wanted))
        mean = torch.stack(self.seen[size]).mean(0)
        return mean.transpose(1, 2).unflatten(-1, size)


def named_maps(view: View, maps: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """[B, height, width] for each concept of the view: the mean over its name's tokens; zero where it is not said.

    maps: [B, text tokens, height, width] of these prompts.
    """
    backbone = view.backbone
    assert hasattr(backbone, "token_places")
    found = {}
    for concept in view.concepts:
        said = backbone.token_places(view, prompts, view.carry(concept.name)).to(maps.dtype)
        weights = said / said.sum(1, keepdim=True).clamp(min=1)
        found[concept.name] = (maps * weights[:, :, None, None]).sum(1)
    return found
