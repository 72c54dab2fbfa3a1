"""Weights changed by a factor of their own (HyperStyle, Alaluf et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import Change, MatrixSpace
from unified.contract.random import Random
from unified.contract.space import spaces
from unified.contract.view import View


@dataclass(frozen=True)
class WeightFactors(MatrixSpace):
    """W (1 + delta) (equation 3): `<path>.delta` [out, in, 1, 1], one for each kernel, or of W's own shape.

    Starts at zero, and so at the backbone itself, bit for bit.
    """

    name: ClassVar[str] = "weight-factors"

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        return {"delta": torch.zeros(*base.shape[:2], *(1 for _ in base.shape[2:]), dtype=base.dtype)}

    def change(self, view: View, component: str, path: str) -> Change:
        return lambda base, parts, weight: base * (1 + weight * parts["delta"].to(base.dtype))


spaces.register("weight-factors", WeightFactors)
