"""The singular values of the weights (SVDiff)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import Change, MatrixSpace, tunable
from unified.contract.random import Random
from unified.contract.shadow import pristine_tensor
from unified.contract.space import spaces
from unified.contract.view import View


@dataclass(frozen=True)
class SpectralShifts(MatrixSpace):
    """W = U diag(relu(s + weight * shift)) V^T (Han et al. 2023, SVDiff, equation 2): `<path>.shift` [min(out, in)].

    Of all matrices and convolutions of the generator; these are seen as out x (in * height * width). Written
    as W + U diag(relu(s + shift) - s) V^T, so that no shift is the backbone itself, bit for bit. The shifts of
    several concepts add (section 3.2) through their changes of W.
    """

    name: ClassVar[str] = "svd"

    def candidates(self, view: View) -> tuple[str, Sequence[str]]:
        component, paths = tunable(view).tunable()
        module = view.backbone.components[component]
        return component, [path for path in paths if pristine_tensor(module, path).ndim >= 2]

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        return {"shift": torch.zeros(min(base.shape[0], base[0].numel()), dtype=base.dtype)}

    def change(self, view: View, component: str, path: str) -> Change:
        base = pristine_tensor(view.backbone.components[component], path)
        left, values, right = view.backbone.once(("svd", component, path), lambda: _svd(base))

        def changed(present: Tensor, parts: Mapping[str, Tensor], weight: float) -> Tensor:
            delta = (values + weight * parts["shift"]).relu() - values
            return present + ((left * delta) @ right).reshape(present.shape)

        return changed


def _svd(base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the flattened weight, computed in double precision."""
    left, values, right = torch.linalg.svd(base.flatten(1).double(), full_matrices=False)
    return left.to(base.dtype), values.to(base.dtype), right.to(base.dtype)


spaces.register("svd", SpectralShifts)
