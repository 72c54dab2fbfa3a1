"""Resampling with a finite impulse response filter (Karras et al. 2019, 2020; here from the formula)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def make_filter(taps: Sequence[float] = (1, 3, 3, 1)) -> Tensor:
    """The two-dimensional filter taps x taps^T with sum 1: [len(taps), len(taps)] float32."""
    line = torch.tensor(taps, dtype=torch.float32)
    square = torch.outer(line, line)
    return square / square.sum()


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert up-1 zeros after each sample, pad, filter, keep each down-th sample; every channel alone.

    x: [N, C, H, W]. filter: [kh, kw]. padding: (left, right, top, bottom) in samples of the upsampled
    grid; negative values crop. flip_filter=False is a convolution, True a correlation.
    Returns [N, C, (H up + top + bottom - kh) // down + 1, likewise W].

    Zeros are never stored: upsampling is a depthwise transposed convolution with stride `up`, the rest a
    depthwise convolution with stride `down`. Both are differentiable to any order.
    """
    if filter.ndim != 2:
        raise ValueError(f"filter has shape {tuple(filter.shape)}; expected [height, width]")
    if up < 1 or down < 1:
        raise ValueError(f"up={up}, down={down}: both must be at least 1")
    channels = x.shape[1]
    height, width = filter.shape
    left, right, top, bottom = padding
    kernel = (filter * gain).to(x.dtype)
    if up == 1:
        if not flip_filter:
            kernel = kernel.flip(0, 1)
        kernel = kernel.expand(channels, 1, height, width)
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, kernel, stride=down, padding=(top, left), groups=channels)
        return F.conv2d(F.pad(x, padding), kernel, stride=down, groups=channels)
    # A transposed convolution is the filtering of the stuffed signal with padding (k - 1) before and
    # (k - 1) - (up - 1) after: what is left of the wanted padding is zeros or a crop of its result.
    if flip_filter:
        kernel = kernel.flip(0, 1)
    kernel = kernel.expand(channels, 1, height, width)
    y = F.conv_transpose2d(x, kernel, stride=up, groups=channels)
    rest = (left - (width - 1), right - (width - up), top - (height - 1), bottom - (height - up))
    if any(rest):
        y = F.pad(y, rest)
    return y if down == 1 else y[:, :, ::down, ::down]


def upsample2d(x: Tensor, filter: Tensor, *, factor: int = 2, gain: float = 1.0) -> Tensor:
    """[N, C, H, W] -> [N, C, factor H, factor W]; the filter (sum 1) keeps the signal's level."""
    padding = tuple(
        pad for size in (filter.shape[1], filter.shape[0]) for pad in ((size + factor - 1) // 2, (size - factor) // 2)
    )
    return upfirdn2d(x, filter, up=factor, padding=padding, gain=gain * factor**2)  # type: ignore[arg-type]


def downsample2d(x: Tensor, filter: Tensor, *, factor: int = 2, gain: float = 1.0) -> Tensor:
    """[N, C, H, W] -> [N, C, H / factor, W / factor]."""
    padding = tuple(
        pad for size in (filter.shape[1], filter.shape[0]) for pad in ((size - factor + 1) // 2, (size - factor) // 2)
    )
    return upfirdn2d(x, filter, down=factor, padding=padding, gain=gain)  # type: ignore[arg-type]
