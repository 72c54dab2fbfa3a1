"""Style channels of a GAN's samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editing.styles import gan_of, joined, sample_styles, styled_of
from unified.contract.backbone import Backbone
from unified.contract.random import Random

_BATCH = 1000


@torch.no_grad()
def channels_from(backbone: Backbone, latents: Tensor) -> Tensor:
    """Latents w [N, width] -> the channels of all layers [N, channels]."""
    number, _ = gan_of(backbone).style_shape()
    gan = styled_of(backbone)
    with backbone.bound() as view:
        return joined(gan.channels_of(view, latents.unsqueeze(1).expand(-1, number, -1)), gan.style_channels())


def channel_statistics(
    backbone: Backbone, rows: Sequence[int], *, rng: Random, truncation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [channels] of each style channel over random samples `rows`."""
    total = squares = torch.zeros((), dtype=torch.float64)
    # Relative to the first sample, so that the squares do not cancel.
    first: Tensor | None = None
    for start in range(0, len(rows), _BATCH):
        styles = sample_styles(backbone, rows[start : start + _BATCH], truncation=truncation, rng=rng)
        channels = channels_from(backbone, styles[:, 0]).double()
        first = channels[0].clone() if first is None else first
        total = total + (channels - first).sum(0)
        squares = squares + (channels - first).square().sum(0)
    assert first is not None
    mean = total / len(rows)
    variance = (squares / len(rows) - mean.square()).clamp(min=0)
    return (first + mean).to(backbone.dtype), variance.sqrt().to(backbone.dtype)
