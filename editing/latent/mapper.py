"""StyleCLIP's latent mapper (Patashnik et al. 2021, section 5): a network that moves styles for one text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_LR_MULTIPLIER = 0.01
_SLOPE = 0.2


class _Dense(nn.Module):
    """A dense layer of equalised learning rate, and a leaky ReLU of gain sqrt(2): [..., width] -> [..., width]."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, generator=generator) / _LR_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (_LR_MULTIPLIER / math.sqrt(self.weight.shape[1]))
        return functional.leaky_relu(functional.linear(x, weight, self.bias * _LR_MULTIPLIER), _SLOPE) * math.sqrt(2)


class Mapper(nn.Module):
    """Styles w [N, number, width] -> w + 0.1 M(w), M a network for each group of layers (equation 5).

    groups: first and last layer of each; layers in no group stay. A network normalises w to unit mean square and
    has four dense layers. seed: of its initial weights.
    """

    amount = 0.1

    def __init__(self, groups: Sequence[tuple[int, int]], width: int, *, seed: int = 0) -> None:
        super().__init__()
        self.groups, self.width = tuple(groups), width
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleList(nn.Sequential(*(_Dense(width, generator) for _ in range(4))) for _ in self.groups)

    def forward(self, styles: Tensor) -> Tensor:
        moved = styles.clone()
        for (first, last), network in zip(self.groups, self.networks, strict=True):
            w = styles[:, first : last + 1]
            normal = w * (w.square().mean(2, keepdim=True) + 1e-8).rsqrt()
            moved[:, first : last + 1] = w + self.amount * network(normal)
        return moved
