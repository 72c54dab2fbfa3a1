"""What random latents look like after the mapping network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbones.stylegan.ops.bias_act import SLOPE

_CHUNK = 1_000


def map_latents(generator: Any, z: Tensor) -> Tensor:
    """z [N, z_dim] -> w [N, w_dim], not truncated, with the condition 0 in a conditional network."""
    width = generator.config.c_dim
    w: Tensor = generator.mapping.map_one(z, z.new_zeros(len(z), width) if width else None)
    return w


@torch.no_grad()
def mapped(generator: Any, count: int, *, dtype: torch.dtype) -> Iterator[Tensor]:
    """The same `count` random latents each time, mapped to w [n, w_dim], in parts."""
    numbers = torch.Generator().manual_seed(123)
    for _ in range(count // _CHUNK):
        z = torch.randn(_CHUNK, generator.config.z_dim, generator=numbers).to(dtype)
        yield map_latents(generator, z).to(dtype)


@dataclass(frozen=True)
class Axes:
    """Principal axes of mapped latents before the last leaky ReLU: P_N of Zhu et al. 2020, section 3.2.

    x = LeakyReLU_5(w);  v = (x - mean) C / deviations.  mean [width], C `axes` [width, width], columns.
    """

    mean: Tensor
    axes: Tensor
    deviations: Tensor

    @staticmethod
    def of(chunks: Iterator[Tensor]) -> Axes:
        """From w [n, width] in parts; sums in fp64. Axes along which samples hardly vary (less than 1e-4 of the
        widest) count as that wide: else rounding alone would be far from the mean."""
        count, total, squares, dtype = 0, torch.zeros(()).double(), torch.zeros(()).double(), torch.float32
        for w in chunks:
            x = _before_activation(w.double())
            count, total, squares, dtype = count + len(x), total + x.sum(0), squares + x.T @ x, w.dtype
        mean = total / count
        values, axes = torch.linalg.eigh(squares / count - torch.outer(mean, mean))
        deviations = values.clamp(min=0).sqrt()
        deviations = deviations.clamp(min=1e-4 * float(deviations.max()))
        return Axes(mean.to(dtype), axes.to(dtype), deviations.to(dtype))

    def whitened(self, w: Tensor) -> Tensor:
        return (_before_activation(w) - self.mean) @ self.axes / self.deviations

    def unwhitened(self, v: Tensor) -> Tensor:
        return functional.leaky_relu((v * self.deviations) @ self.axes.T + self.mean, SLOPE)


def _before_activation(w: Tensor) -> Tensor:
    """Undo the mapping network's last leaky ReLU (its gain, the same on both sides, is left in)."""
    return functional.leaky_relu(w, 1 / SLOPE)
