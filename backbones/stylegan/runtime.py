"""How the synthesis networks compute: settings of speed and memory that leave the picture what it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HALF_CLAMP = 256.0  # features in float16 where the configuration names no limit, as in the official networks


@dataclass(frozen=True)
class Runtime:
    """dtype: torch.float16 or torch.bfloat16 for the features of the largest sizes; None: as the weights are.
    low_precision_sizes: how many sizes that are (num_fp16_res of the official networks; 4x4 is never one).
    checkpoint_from: layers of this size and larger keep no activations for the gradient but compute them again,
    which costs a forward pass of them. Blocks are computed again whole, so that the largest one's activations are
    there for a moment: tuning all weights at 1024 in float32 takes 1.5 GB beyond the weights with 256, instead of 2.0.
    None: all are kept.
    Forward hooks on these layers run twice.
    """

    dtype: torch.dtype | None = None
    low_precision_sizes: int = 4
    checkpoint_from: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype={self.dtype}: expected torch.float16, torch.bfloat16 or None")

    def convert(self, x: Tensor, size: float, resolution: int) -> Tensor:
        """x in the type of features of `size` pixels (samples per picture width) in a network of `resolution`."""
        low = self.dtype is not None and size >= 8 and size * 2**self.low_precision_sizes > resolution
        return x.to(self.dtype) if low else x

    def recomputes(self, size: float) -> bool:
        """Whether layers of `size` are computed again for the gradient."""
        return self.checkpoint_from is not None and size >= self.checkpoint_from and torch.is_grad_enabled()
