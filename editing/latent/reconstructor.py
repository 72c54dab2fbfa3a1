"""Directions and paths that can be told apart by what they do to pictures. Networks alone, no generator.

Voynov & Babenko 2020, "Unsupervised Discovery of Interpretable Directions in the GAN Latent Space", section 3, and
Tzelepis et al. 2021, "WarpedGANSpace", section 3: a reconstructor sees a picture and the same one moved, and says
which of K ways it was moved and how far; the ways are learned with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def down_to(inputs: int, side: int, *, channels: int) -> tuple[nn.Sequential, int]:
    """Convolutions of stride 2 from pictures [N, inputs, side, side] to 4 x 4, as vectors, and their width."""
    parts: list[nn.Module] = []
    width = inputs
    for place in range(max(1, round(math.log2(side / 4)))):
        outputs = channels if place == 0 else min(4 * channels, 2 * width)
        parts += [nn.Conv2d(width, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2)]
        width = outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten()), 16 * width


class Reconstructor(nn.Module):
    """Pairs of pictures [N, 6, H, W] in 0..1 -> the logits of the way [N, ways] and its signed length [N].

    Convolutions of stride 2 down to 4 x 4, then one layer each (the authors: LeNet for small pictures, ResNet-18
    for large ones). The first one sees the picture and the difference to it, which is the pair in other coordinates.
    """

    def __init__(self, ways: int, side: int, *, channels: int = 32) -> None:
        super().__init__()
        self.trunk, found = down_to(6, side, channels=channels)
        self.way = nn.Linear(found, ways)
        self.length = nn.Linear(found, 1)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        before, after = pairs.chunk(2, dim=1)
        found = self.trunk(torch.cat([2 * before - 1, 4 * (after - before)], 1))
        return self.way(found), self.length(found).squeeze(1)


def recognition_loss(logits: Tensor, length: Tensor, way: Tensor, wanted: Tensor, *, weight: float) -> Tensor:
    """Cross-entropy of the way, plus `weight` times the mean absolute error of the length."""
    return functional.cross_entropy(logits, way) + weight * (length - wanted).abs().mean()


class Straight(nn.Module):
    """K orthonormal directions of w (Voynov & Babenko): the columns of the matrix A, kept so by a QR step."""

    def __init__(self, ways: int, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(width, ways))

    def directions(self) -> Tensor:
        """Unit vectors [K, width]."""
        basis, upper = torch.linalg.qr(self.matrix)
        return (basis * upper.diagonal().sign()).T

    def forward(self, w: Tensor, way: Tensor) -> Tensor:
        """The unit step [N, width] of each picture along its way [N]; the same wherever w is."""
        return self.directions()[way]


class Warped(nn.Module):
    """K warps of w, sums of radial basis functions (Tzelepis et al.): a path follows the gradient of one.

    f_k(x) = sum over dipoles j of exp(-g |x - s_j|^2) - exp(-g |x - s'_j|^2), with learned places s, s' and widths g,
    of w scaled to deviations, x = (w - mean) / spread. mean: [width]; spread: deviation of one coordinate.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, ways: int, width: int, *, dipoles: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(()))
        around = functional.normalize(torch.randn(ways, dipoles, width), dim=2)
        around = around * math.sqrt(width) * (0.5 + torch.rand(ways, dipoles, 1))
        self.places = nn.Parameter(torch.stack([around, -around], 2))  # [ways, dipoles, both ends, width]
        self.widths = nn.Parameter(torch.full((ways, dipoles, 2), -math.log(2.0 * width)))  # log g

    def forward(self, w: Tensor, way: Tensor) -> Tensor:
        """The unit step [N, width] of each picture along the gradient of its warp `way` [N], at w."""
        x = (w - self.mean) / self.spread
        apart = x[:, None, None] - self.places[way]  # [N, dipoles, 2, width]
        g = self.widths[way].exp()
        exponents = -g * apart.square().sum(3)
        # Only the direction counts, so far places may not underflow: relative to the nearest.
        near = (exponents - exponents.amax((1, 2), keepdim=True).detach()).exp()
        signs = near.new_tensor([1.0, -1.0])
        slope = (-2 * g * signs * near).unsqueeze(3) * apart
        return functional.normalize(slope.sum((1, 2)), dim=1)


def follow(warps: Warped, w: Tensor, way: int, length: float, *, longest: float) -> Tensor:
    """Where steps of at most `longest` along a warp lead from w [N, width]; negative: backwards."""
    count = max(1, round(abs(length) / longest + 0.5))
    ways = torch.full((len(w),), way)
    for _ in range(count):
        w = w + length / count * warps(w, ways)
    return w
