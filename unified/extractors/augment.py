"""Small changes to training pictures, so that the extractors also read generated, slightly wrong ones.

No flips: hair, the wink and the raised eyebrow have sides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, generator: torch.Generator, *, brightness: float = 0.06) -> Tensor:
    """Shift, blur, block compression, brightness and noise, each of random strength; [N,3,H,W] in 0..1.

    brightness: half width of the uniform factor and offset. The batch is dealt with in parts (its order is
    random), so that a part keeps its sharpness.
    """
    out = shift(images, generator)
    quarter = len(out) // 4
    if quarter:
        parts = list(out.split([quarter, quarter, len(out) - 2 * quarter]))
        parts[0] = resample(parts[0], float(torch.rand((), generator=generator)) * 0.45 + 0.5)
        parts[1] = block_compress(parts[1], float(torch.rand((), generator=generator)) * 0.08 + 0.01)
        out = torch.cat(parts)
    count = (len(out), 1, 1, 1)
    factor = 1 + brightness * (torch.rand(count, generator=generator) * 2 - 1)
    offset = brightness * (torch.rand(count, generator=generator) * 2 - 1)
    sigma = 0.05 * torch.rand(count, generator=generator) ** 2
    noise = torch.randn(out.shape, generator=generator)
    return (out * factor + offset + sigma * noise).clamp(0, 1)


def shift(images: Tensor, generator: torch.Generator, *, pixels: float = 1.5) -> Tensor:
    """Move each picture by up to `pixels` in x and y (not whole numbers), repeating the border."""
    count, _, height, width = images.shape
    theta = torch.eye(2, 3).repeat(count, 1, 1)
    moves = (torch.rand(count, 2, generator=generator) * 2 - 1) * pixels
    # A third stays where it is: bilinear moves blur a little, and sharp pictures must stay known.
    moves *= (torch.rand(count, 1, generator=generator) > 1 / 3).float()
    theta[:, :, 2] = moves * 2 / torch.tensor([width, height])
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def resample(images: Tensor, scale: float) -> Tensor:
    """Make smaller by `scale` and larger again: blur."""
    size = images.shape[-2:]
    small = [max(1, round(side * scale)) for side in size]
    reduced = functional.interpolate(images, small, mode="bilinear", antialias=True)
    return functional.interpolate(reduced, size, mode="bilinear")


def block_compress(images: Tensor, step: float) -> Tensor:
    """What JPEG does to each 8 x 8 block: round its cosine coefficients, fine detail more coarsely.

    step: the rounding step of the mean for pictures in 0..1; the finest coefficient's is 8 times as coarse.
    Height and width must be multiples of 8.
    """
    count, channels, height, width = images.shape
    basis = cosine_basis(8)
    blocks = images.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    frequency = torch.arange(8)
    steps = step * (1 + 0.5 * (frequency[:, None] + frequency[None, :]))
    coefficients = (coefficients / steps).round() * steps
    blocks = basis.T @ coefficients @ basis
    return blocks.transpose(3, 4).reshape(count, channels, height, width)


def cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II matrix, [size, size]: rows are frequencies."""
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()
