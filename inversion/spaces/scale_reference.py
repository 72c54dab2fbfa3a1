"""A reference picture's own keys and values, for models that draw scale by scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from unified.contract.abilities import Tokenises
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.scale_memory import RemembersScales, ScaleMemory, scale_mask
from unified.contract.space import Space, spaces
from unified.contract.tokens import PredictsScales
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class ScaleReference(Space):
    """What every layer made of the reference's first pictures, `keys`, `values` [layers, heads, M, width].

    A token that is drawn sees, beside its own picture, the references' tokens of its own and of coarser scales.
    references: how many pictures. layers, scales: those that see them; () for all. prompt: what they are read
    with. Bound with weight c they get c times the attention.
    """

    name: ClassVar[str] = "scale-reference"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Tokenises, PredictsScales, RemembersScales)
    # Learning them from the pictures that they were read from would be copying.
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()
    encodes: ClassVar[bool] = True

    references: int = 1
    layers: tuple[int, ...] = ()
    scales: tuple[int, ...] = ()
    prompt: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises)
        return self.read(view, backbone.codes(view, reference.images[: self.references]))

    def read(self, view: View, pictures: torch.Tensor) -> Code:
        """The code of pictures given as visual tokens [n, 1, tokens]."""
        backbone = view.backbone
        assert isinstance(backbone, RemembersScales) and isinstance(backbone, PredictsScales)
        layers = backbone.scale_memory_shape()[0]
        if not all(0 <= layer < layers for layer in self.layers):
            raise UserError(f"layers={list(self.layers)} were given; this model has the layers 0 to {layers - 1}.")
        scale_mask(self.scales, backbone.scale_sizes())  # refuses what there is not
        with torch.no_grad():
            read = [backbone.remember_scales(view, self.prompt, picture[None]) for picture in pictures]
        keys, values = (torch.cat([getattr(memory, part) for memory in read], dim=2) for part in ("keys", "values"))
        return self.code({"keys": keys, "values": values})

    def bind(self, view: View, code: Code, name: str) -> None:
        backbone, weight = view.backbone, view.binding.weight
        assert isinstance(backbone, PredictsScales)
        sizes = backbone.scale_sizes()
        levels = torch.cat([torch.full((size,), scale) for scale, size in enumerate(sizes)])

        def read() -> ScaleMemory:
            keys = code.tensors["keys"]
            finer = (levels[:, None] < levels[None]).repeat(1, keys.shape[2] // len(levels))
            bias = keys.new_zeros(finer.shape).masked_fill(finer, -torch.inf).expand(len(keys), -1, -1)
            memory = ScaleMemory(keys, code.tensors["values"], bias).weighted(weight)
            memory = memory.in_layers(self.layers) if self.layers else memory
            return memory.in_scales(self.scales, sizes) if self.scales else memory

        view.slot(f"scale-memory/{name}/{self.name}", code, read)


spaces.register("scale-reference", ScaleReference)
