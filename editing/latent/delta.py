"""DeltaEdit's mapper (Lyu et al. 2023, "DeltaEdit", section 3): from a step in CLIP's space to one of style channels.

Where a picture is in CLIP's space and how it shall move there, and the style channels as they are, give how these
shall move. It is trained on pictures alone; that texts move in the same space as pictures do lets it be asked by text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_LR_MULTIPLIER = 0.01


class _Dense(nn.Module):
    """A dense layer of equalised learning rate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / _LR_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        scale = _LR_MULTIPLIER / math.sqrt(self.weight.shape[1])
        return functional.linear(x, self.weight * scale, self.bias * _LR_MULTIPLIER)


class _Module(nn.Module):
    """Dense layers with leaky ReLU of gain sqrt(2); `normal`: of inputs with unit mean square."""

    def __init__(self, inputs: int, outputs: int, *, layers: int, normal: bool, last: bool) -> None:
        super().__init__()
        self.normal, self.last = normal, last
        sizes = [inputs] + [outputs] * layers
        self.dense = nn.ModuleList(_Dense(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        if self.normal:
            x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for place, layer in enumerate(self.dense):
            x = layer(x)
            if place + 1 < len(self.dense) or not self.last:
                x = functional.leaky_relu(x, 0.2) * math.sqrt(2)
        return x


class DeltaMapper(nn.Module):
    """(channels s [N, C], picture i and step d in CLIP's space [N, D] each) -> step of the channels [N, C].

    sizes: channels of each group of layers (coarse, medium, fine), which have networks of their own: a style module
    for s, a condition module for (i, d), a fusion module for both. Channels come in deviations from their mean. The
    paper's groups share a network between layers of one width; here a group is one vector, as its fine one is. The
    last layer has no activation, so that steps go both ways alike.
    """

    def __init__(self, sizes: Sequence[int], features: int, *, layers: int = 4) -> None:
        super().__init__()
        self.sizes, self.features, self.depth = tuple(sizes), features, layers

        def modules(factor: int, *, normal: bool, last: bool, inputs: int = 0) -> nn.ModuleList:
            return nn.ModuleList(
                _Module(inputs or factor * size, size, layers=layers, normal=normal, last=last) for size in self.sizes
            )

        self.style = modules(1, normal=True, last=False)
        self.condition = modules(0, normal=True, last=False, inputs=2 * features)
        self.fusion = modules(2, normal=False, last=True)

    def forward(self, channels: Tensor, picture: Tensor, step: Tensor) -> Tensor:
        condition = torch.cat([picture, step], 1)
        parts = [
            fuse(torch.cat([style(part), given(condition)], 1))
            for part, style, given, fuse in zip(
                channels.split(self.sizes, dim=1), self.style, self.condition, self.fusion, strict=True
            )
        ]
        return torch.cat(parts, 1)


def delta_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error plus 1 - cosine of the steps [N, C] (the paper's reconstruction and similarity losses)."""
    return (found - wanted).square().mean() + (1 - functional.cosine_similarity(found, wanted, dim=1)).mean()
