"""Low-rank changes whose inputs are orthogonal between concepts (Po et al. 2024)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import selected, tunable
from inversion.spaces.parameter import LoRA
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor
from unified.contract.space import spaces
from unified.contract.view import View


@dataclass(frozen=True)
class OrthogonalLoRA(LoRA):
    """W + B A with A fixed: `rank` rows of an orthogonal matrix that all concepts share (section 4.2).

    Only B `<path>.up` learns. Which rows a concept has follows from its name, so that concepts trained apart, by
    people who do not know of each other, hardly ever meet; where two do, merging them is refused.
    """

    name: ClassVar[str] = "orthogonal-lora"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        component, paths = tunable(view).adaptable()
        module = view.backbone.components[component]
        tensors: dict[str, Tensor] = {}
        for path in selected(list(paths), self.paths):
            base = pristine_tensor(module, path)
            tensors[f"{path}.down"] = directions(base[0].numel(), self.rank, reference.name).to(base.dtype)
            tensors[f"{path}.up"] = torch.zeros(base.shape[0], len(tensors[f"{path}.down"]), dtype=base.dtype)
        return self.code(tensors, component=component)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return {key: value.detach() if key.endswith(".down") else value for key, value in code.tensors.items()}


def directions(width: int, rank: int, name: str) -> Tensor:
    """The rows [min(rank, width), width] of a shared orthogonal matrix that belong to `name`, orthonormal."""
    rank = min(rank, width)
    blocks = width // rank
    block = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % blocks
    drawn = Random(0).child("shared directions", width).normal(range(width), (width,), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0][:, block * rank : (block + 1) * rank].T.contiguous()


spaces.register("orthogonal-lora", OrthogonalLoRA)
