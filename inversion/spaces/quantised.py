"""Weights as 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unified.contract.abilities import Speaks, Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class Int8Weights(Space):
    """Every matrix and convolution of the generator and its text encoders rounded to 8 bits, one scale an output.

    What the network computes is what one with 8-bit weights would, in full precision otherwise. It is no saving
    here: the integers are made beside the backbone's own weights, which stay in memory, and are turned back into
    floats at each use. The code holds nothing but the number of bits.
    """

    name: ClassVar[str] = "int8-weights"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.REPLACE
    needs: ClassVar[tuple[type, ...]] = (Tunable,)
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()
    encodes: ClassVar[bool] = True

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        return self.code({"bits": torch.tensor([8.0])})

    def bind(self, view: View, code: Code, name: str) -> None:
        backbone = view.backbone
        assert isinstance(backbone, Tunable)
        components = [backbone.tunable()[0], *(backbone.text_outputs() if isinstance(backbone, Speaks) else ())]
        for component in dict.fromkeys(components):
            for path in _matrices(backbone.components[component]):
                view.replace(component, path, _rounded(backbone, component, path))


def _matrices(module: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def _rounded(backbone: Backbone, component: str, path: str) -> Callable[[Tensor], Tensor]:
    base = pristine_tensor(backbone.components[component], path)
    numbers, scale = backbone.once(("int8", component, path), lambda: quantised(base))
    return lambda weight: (numbers.to(scale.dtype) * scale).to(weight.dtype)


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(integers int8, scale [out, 1, ...]) with weight close to integers x scale: symmetric, one scale an output."""
    scale = weight.detach().abs().flatten(1).amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).view(-1, *([1] * (weight.ndim - 1)))
    return (weight.detach() / scale).round().clamp(-127, 127).to(torch.int8), scale


spaces.register("int8-weights", Int8Weights)
