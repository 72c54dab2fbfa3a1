"""How close an image is to the one it reconstructs: MSE, PSNR, SSIM. Images are [N,3,H,W] in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from unified.errors import UserError


def mean_squared_error(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """[N]; `mask` [N,1,H,W] or [N,H,W] says which pixels count (bool), or how much."""
    _check(a, b)
    squares = (a - b).square()
    if mask is None:
        return squares.flatten(1).mean(dim=1)
    weights = (mask if mask.ndim == 4 else mask[:, None]).to(squares.dtype).expand_as(squares)
    return (squares * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1)


def psnr(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio [N] in dB, of a peak of 1: -10 log10(MSE); infinite for equal images."""
    return -10 * mean_squared_error(a, b, mask=mask).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [N], at most 1 (Wang et al. 2004, equation 13).

    Gaussian window of 11 pixels and standard deviation 1.5, K1 = 0.01, K2 = 0.03, mean over channels and over
    the positions at which the window lies inside the image, as in the paper's code; so H and W must be at
    least 11. (torchmetrics 1.9 also averages over mirrored borders, which differs in the third digit.) One
    scale: the usual five of MS-SSIM do not fit into 64 pixels.
    """
    _check(a, b)
    if min(a.shape[2:]) < 11:
        raise UserError(f"SSIM needs images of at least 11x11 pixels; given were {tuple(a.shape[2:])}")
    offsets = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    window = (-offsets.square() / (2 * 1.5**2)).exp()
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        planes = x.flatten(0, 1)[:, None]
        planes = conv2d(conv2d(planes, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))
        return planes.view(x.shape[0], x.shape[1], *planes.shape[2:])

    mean_a, mean_b = blur(a), blur(b)
    variance_a = (blur(a * a) - mean_a.square()).clamp_min(0)
    variance_b = (blur(b * b) - mean_b.square()).clamp_min(0)
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise UserError(
            f"images of shapes {tuple(a.shape)} and {tuple(b.shape)} were to be compared; expected two "
            "of one shape [N,3,H,W]"
        )
