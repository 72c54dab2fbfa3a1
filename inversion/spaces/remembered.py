"""Spaces of keys and values that stand before the prompt (survey section 5; prefix tuning)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Tokenises
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.memory import Memory, Remembers
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError


def _remembers(view: View) -> Remembers:
    backbone = view.backbone
    assert isinstance(backbone, Remembers)
    return backbone


def _words(space: Space, text: str, reference: Reference) -> str:
    found = text or reference.category
    if not found:
        raise UserError(
            f"The space {space.name!r} starts from a class word, and none was given: pass category='person'"
            " (or what the pictures show)."
        )
    return found


def _place(view: View, space: Space, code: Code, name: str, read: Callable[[], Memory]) -> None:
    """Let the view remember what `read()` gives, as strongly as the concept is bound."""
    weight = view.binding.weight
    view.slot(f"memory/{name}/{space.name}", code, lambda: read().weighted(weight))


@dataclass(frozen=True)
class Prefix(Space):
    """Keys and values of `length` tokens in every layer: keys, values [layers, heads, length, width].

    Prefix tuning (Li and Liang 2021, section 4.2). They start as the activations of the class word, which
    section 7.4 found best; the paper's reparametrisation by a network, which it drops after training, is left
    out. Bound with weight c the prefix gets c times the attention; with 0 none.
    """

    name: ClassVar[str] = "prefix"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Remembers,)
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.LIKELIHOOD})

    length: int = 8
    initial_text: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        words = _words(self, self.initial_text, reference)
        with torch.no_grad():
            memory = _remembers(view).remember(view, " ".join([words] * self.length))
        return self.code({"keys": memory.keys[:, :, : self.length], "values": memory.values[:, :, : self.length]})

    def bind(self, view: View, code: Code, name: str) -> None:
        def read() -> Memory:
            keys = code.tensors["keys"]
            return Memory(keys, code.tensors["values"], keys.new_zeros(keys.shape[0], keys.shape[2]))

        _place(view, self, code, name, read)


@dataclass(frozen=True)
class ReferenceMemory(Space):
    """The model's own keys and values of the reference pictures, read once at the beginning of a sequence.

    With all layers this is the pictures in the context, computed once for all prompts. layers: those that see
    them; () for all. references: how many pictures. Bound with weight c they get c times the attention.
    """

    name: ClassVar[str] = "reference-kv"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Remembers, Tokenises)
    # Learning them from the pictures that they were read from would be copying.
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()
    encodes: ClassVar[bool] = True

    references: int = 1
    layers: tuple[int, ...] = ()

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises)
        remembers = _remembers(view)
        count, _, _ = remembers.memory_shape()
        if not all(0 <= layer < count for layer in self.layers):
            raise UserError(f"layers={list(self.layers)} were given; this model has the layers 0 to {count - 1}.")
        with torch.no_grad():
            codes = backbone.codes(view, reference.images[: self.references])
            memory = remembers.remember(view, "", codes)
        return self.code({"keys": memory.keys, "values": memory.values}, opens=memory.opens)

    def bind(self, view: View, code: Code, name: str) -> None:
        def read() -> Memory:
            keys = code.tensors["keys"]
            bias = keys.new_zeros(keys.shape[0], keys.shape[2])
            memory = Memory(keys, code.tensors["values"], bias, bool(code.meta.get("opens", False)))
            return memory.in_layers(self.layers) if self.layers else memory

        _place(view, self, code, name, read)


@dataclass(frozen=True)
class LayerTokens(Space):
    """Learnt tokens that every one of the first layers gets anew: tokens [depth, text + image, D].

    CoAR (Wu et al. 2025, layer-wise multi-modal context): the model stays frozen; `text` tokens start at the mean
    embedding of the class word, `image` tokens at that of the reference's visual tokens. A token that is
    replaced at each layer acts through its keys and values alone; they are computed from it with the layer's
    own weights. Here both kinds stand before the prompt, and later layers see neither.
    """

    name: ClassVar[str] = "layer-tokens"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Remembers, Tokenises)
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.LIKELIHOOD})

    text: int = 1
    image: int = 1
    depth: int = 9
    initial_text: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises)
        remembers = _remembers(view)
        if self.text + self.image < 1 or min(self.text, self.image) < 0:
            raise UserError(f"text={self.text} and image={self.image} tokens were asked for: learn at least one.")
        with torch.no_grad():
            words = remembers.embeddings_of(view, _words(self, self.initial_text, reference))
            seen = remembers.embeddings_of(view, "", backbone.codes(view, reference.images))
        start = torch.cat([words.mean(0).expand(self.text, -1), seen.mean(0).expand(self.image, -1)])
        depth = min(self.depth, remembers.memory_shape()[0])
        tokens: Tensor = start.repeat(depth, 1, 1)
        if max(self.text, self.image) > 1:  # equal tokens would get equal gradients for ever
            noise = rng.normal(range(depth), start.shape, dtype=start.dtype)
            tokens = tokens + 0.1 * seen.std() * noise
        return self.code({"tokens": tokens})

    def bind(self, view: View, code: Code, name: str) -> None:
        remembers = _remembers(view)
        _place(view, self, code, name, lambda: remembers.memory_of_inputs(view, code.tensors["tokens"]))


spaces.register("prefix", Prefix)
spaces.register("reference-kv", ReferenceMemory)
spaces.register("layer-tokens", LayerTokens)
