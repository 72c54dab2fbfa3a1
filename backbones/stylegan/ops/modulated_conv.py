"""Convolution with weights modulated per picture (Karras et al. 2020, section 2.2, equations 1 to 3).

w'[n,o,i,k] = s[n,i] w[o,i,k], and with demodulation w'' = w' / sqrt(sum_{i,k} w'^2 + eps). Neither is ever
built per picture: the modulation is moved to the input, x s, and the norm, which is
sum_i s[n,i]^2 sum_k w[o,i,k]^2, to the output. One dense convolution serves a batch of different codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from backbones.stylegan.ops.upfirdn2d import upfirdn2d

EPSILON = 1e-8


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / norm of the modulated weights. weight [O, I, kh, kw], styles [N, I] -> [N, O]."""
    return (styles.square() @ weight.square().sum((2, 3)).t() + EPSILON).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    up: int = 1,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    noise: Tensor | None = None,
) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] with odd k, styles [N, I] -> [N, O, up H, up W].

    up: 1 or 2; 2 is a transposed convolution followed by `resample_filter` ([4, 4], sum 1).
    noise: added to the result; anything that broadcasts with it.
    """
    y = dense_conv2d(x * styles.to(x.dtype)[:, :, None, None], weight, up=up, resample_filter=resample_filter)
    if demodulate:
        scale = demodulation(weight, styles).to(x.dtype)[:, :, None, None]
        return y * scale if noise is None else noise.to(y.dtype) + y * scale
    return y if noise is None else y + noise.to(y.dtype)


def dense_conv2d(x: Tensor, weight: Tensor, *, up: int = 1, resample_filter: Tensor | None = None) -> Tensor:
    """Convolution that keeps the size (up=1, a correlation) or doubles it (up=2, not flipped)."""
    weight = weight.to(x.dtype)
    size = weight.shape[-1]
    if up == 1:
        return F.conv2d(x, weight, padding=size // 2)
    if up != 2 or resample_filter is None:
        raise ValueError(f"up={up}: expected 1, or 2 with a resample_filter")
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    # conv_transpose2d gives 2 H + k - 2 samples; the filter's padding brings this to 2 H.
    taps = resample_filter.shape[-1]
    before = size // 2 + (taps + 1) // 2 - (size - 1)
    after = size // 2 + (taps - 2) // 2 - (size - 2)
    return upfirdn2d(y, resample_filter, padding=(before, after, before, after), gain=4.0)
