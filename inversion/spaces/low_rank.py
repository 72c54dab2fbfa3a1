"""Low-rank changes beside LoRA: DoRA, and the residuals of the blocks' output projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import Change, MatrixSpace, tunable
from unified.contract.abilities import ReadsByLayer, Tunable
from unified.contract.kinds import Clash
from unified.contract.random import Random
from unified.contract.space import spaces
from unified.contract.view import View


def row_norms(weight: Tensor) -> Tensor:
    """The length of each neuron, [out, 1]."""
    return weight.flatten(1).norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class DoRA(MatrixSpace):
    """m (W + BA) / |W + BA| (Liu et al. 2024, DoRA, equation 5): `<path>.magnitude` [out, 1], `.down`, `.up`.

    Lengths are those of neurons (rows), m starts at |W|. As in section 4.3 the denominator is a constant for
    the gradient. alpha as in LoRA. Sets lengths rather than adding to them, so two concepts cannot both.
    """

    name: ClassVar[str] = "dora"
    clash: ClassVar[Clash] = Clash.REPLACE

    rank: int = 8
    alpha: float | None = None

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        down = rng.normal(range(self.rank), (base[0].numel(),), dtype=base.dtype) / self.rank
        return {
            "magnitude": row_norms(base).detach().clone(),
            "down": down,
            "up": torch.zeros(base.shape[0], self.rank, dtype=base.dtype),
        }

    def change(self, view: View, component: str, path: str) -> Change:
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank

        def changed(base: Tensor, parts: Mapping[str, Tensor], weight: float) -> Tensor:
            flat = base.flatten(1)
            direction = flat + scale * (parts["up"] @ parts["down"])
            full = parts["magnitude"] / row_norms(direction).detach() * direction
            return (full if weight == 1.0 else flat + weight * (full - flat)).reshape(base.shape)

        return changed


@dataclass(frozen=True)
class Residual(MatrixSpace):
    """W + A B on the output projection of every block of transformers (Ham et al. 2024, section 3.1).

    `<path>.up` A [width, rank], `<path>.down` B [rank, width]; the rank is a `fraction` of the width.
    """

    name: ClassVar[str] = "residual"
    needs: ClassVar[tuple[type, ...]] = (Tunable, ReadsByLayer)

    paths: str = r"attentions\.\d+\.proj_out\.weight$"
    fraction: float = 0.05

    def candidates(self, view: View) -> tuple[str, Sequence[str]]:
        return tunable(view).tunable()

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        rank = max(1, int(self.fraction * base.shape[0]))
        inputs = base[0].numel()
        return {
            "down": rng.normal(range(rank), (inputs,), dtype=base.dtype) / inputs**0.5,
            "up": torch.zeros(base.shape[0], rank, dtype=base.dtype),
        }

    def change(self, view: View, component: str, path: str) -> Change:
        def changed(base: Tensor, parts: Mapping[str, Tensor], weight: float) -> Tensor:
            return base + (weight * (parts["up"] @ parts["down"])).reshape(base.shape)

        return changed


spaces.register("dora", DoRA)
spaces.register("residual", Residual)
