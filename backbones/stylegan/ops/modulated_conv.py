"""Convolution with weights modulated per picture (Karras et al. 2020, section 2.2, equations 1 to 3).

w'[n,o,i,k] = s[n,i] w[o,i,k], and with demodulation w'' = w' / sqrt(sum_{i,k} w'^2 + eps). Neither is ever
built per picture: the modulation is moved to the input, x s, and the norm, which is
sum_i s[n,i]^2 sum_k w[o,i,k]^2, to the output. One dense convolution serves a batch of different codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.stylegan.ops.dispatch import modulate, upfirdn2d
from backbones.stylegan.ops.layout import for_convolution

EPSILON = 1e-8


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / norm of the modulated weights. weight [O, I, kh, kw], styles [N, I] -> [N, O]."""
    return demodulation_of(weight.square().sum((2, 3)), styles)


def demodulation_of(energy: Tensor, styles: Tensor) -> Tensor:
    """The same from energy [O, I], the weight's squares summed over kh and kw."""
    return (styles.square() @ energy.t() + EPSILON).rsqrt()


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
    y = styled_conv2d(x, weight, styles, up=up, resample_filter=resample_filter)
    if demodulate:
        scale = demodulation(weight, styles).to(x.dtype)[:, :, None, None]
        return y * scale if noise is None else noise.to(y.dtype) + y * scale
    return y if noise is None else y + noise.to(y.dtype)


def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    up: int = 1,
    resample_filter: Tensor | None = None,
    padding: int | None = None,
) -> Tensor:
    """:func:`dense_conv2d` of x s, s = styles [N, I]: modulation without demodulation."""
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or styles.requires_grad or weight.requires_grad)
    if len(x) == 1 and weight.numel() < x.numel() and not needs_gradient:
        # One picture: its weights are fewer numbers than its features.
        weight = (weight * styles[0, :, None, None]).to(x.dtype)
    else:
        x = modulate(for_convolution(x, weight), styles)
    return dense_conv2d(x, weight, up=up, resample_filter=resample_filter, padding=padding)


def dense_conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    up: int = 1,
    resample_filter: Tensor | None = None,
    padding: int | None = None,
) -> Tensor:
    """Convolution that keeps the size (up=1, a correlation) or doubles it (up=2, not flipped).

    padding: of up=1, other than what keeps the size.
    """
    weight = weight.to(x.dtype)
    x = for_convolution(x, weight)
    size = weight.shape[-1]
    if up == 1:
        return F.conv2d(x, weight, padding=size // 2 if padding is None else padding)
    if up != 2 or resample_filter is None:
        raise ValueError(f"up={up}: expected 1, or 2 with a resample_filter")
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    # conv_transpose2d gives 2 H + k - 2 samples; the filter's padding brings this to 2 H.
    taps = resample_filter.shape[-1]
    before = size // 2 + (taps + 1) // 2 - (size - 1)
    after = size // 2 + (taps - 2) // 2 - (size - 2)
    return upfirdn2d(y, resample_filter, padding=(before, after, before, after), gain=4.0)


def modulated_mix(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A modulated 1x1 convolution to few channels, not demodulated: x [N, I, H, W], weight [O, I, 1, 1],
    styles [N, I] -> [N, O, H, W].

    Here the weights per picture are a small matrix, and modulating them spares the passes over x.
    """
    matrix = (weight.flatten(1) * styles[:, None]).to(x.dtype)  # [N, O, I]
    height, width = x.shape[2:]
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        y = x.permute(0, 2, 3, 1).flatten(1, 2) @ matrix.mT
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return (matrix @ x.flatten(2)).unflatten(2, (height, width))
