"""The operations as the networks call them: native kernels where they are loaded and take the tensor, else torch.

The torch functions are the specification. `native.load()` loads kernels; see `backbones.stylegan.ops.native`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.stylegan.ops import native
from backbones.stylegan.ops.bias_act import LRELU_GAIN, SLOPE
from backbones.stylegan.ops.bias_act import bias_act as torch_bias_act
from backbones.stylegan.ops.filtered_lrelu import filtered_lrelu as torch_filtered_lrelu
from backbones.stylegan.ops.upfirdn2d import upfirdn2d as torch_upfirdn2d

Padding = tuple[int, int, int, int]


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """As `ops.upfirdn2d.upfirdn2d`."""
    fits = filter.ndim == 2 and not filter.requires_grad and filter.device == x.device
    run = native.upfirdn2d if fits and x.ndim == 4 and native.ready(x) else torch_upfirdn2d
    return run(x, filter, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(x: Tensor, filter: Tensor, *, factor: int = 2, gain: float = 1.0) -> Tensor:
    """As `ops.upfirdn2d.upsample2d`."""
    height, width = filter.shape
    padding = (
        (width + factor - 1) // 2,
        (width - factor) // 2,
        (height + factor - 1) // 2,
        (height - factor) // 2,
    )
    return upfirdn2d(x, filter, up=factor, padding=padding, gain=gain * factor**2)


def downsample2d(x: Tensor, filter: Tensor, *, factor: int = 2, gain: float = 1.0) -> Tensor:
    """As `ops.upfirdn2d.downsample2d`."""
    height, width = filter.shape
    padding = (
        (width - factor + 1) // 2,
        (width - factor) // 2,
        (height - factor + 1) // 2,
        (height - factor) // 2,
    )
    return upfirdn2d(x, filter, down=factor, padding=padding, gain=gain)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "lrelu",
    slope: float = SLOPE,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """As `ops.bias_act.bias_act`."""
    fits = x.ndim >= 2 and slope >= 0 and (gain is None or gain > 0)
    run = native.bias_act if fits and native.ready(x) else torch_bias_act
    return run(x, bias, dim=dim, act=act, slope=slope, gain=gain, clamp=clamp)


def modulate(x: Tensor, styles: Tensor, *, overwrite: bool = False) -> Tensor:
    """x [N, C, H, W] times styles [N, C]; one pass also for both gradients where there are kernels.

    overwrite: x is not needed afterwards. Its memory is used again where no gradient needs x.
    """
    recorded = _records(x, styles)
    if recorded and native.ready(x):
        return native.affine_lrelu(x, scale=styles, slope=1.0, gain=1.0)
    factor = styles.to(x.dtype)[:, :, None, None]
    return x.mul_(factor) if overwrite and not recorded else x * factor


def modulated_epilogue(
    x: Tensor,
    scale: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    strength: Tensor | float = 1.0,
    bias: Tensor | None = None,
    slope: float = SLOPE,
    gain: float = LRELU_GAIN,
    clamp: float | None = None,
    overwrite: bool = False,
) -> Tensor:
    """clamp(gain lrelu(x scale + noise strength + bias)): all that follows a modulated convolution.

    x [N, C, H, W]; scale [N, C], the demodulation; noise [H, W] or [1 or N, 1, H, W]; bias [C]; gain > 0.
    overwrite: x is not needed afterwards. Its memory is used again where no gradient needs x.
    """
    if native.ready(x) and slope >= 0 and x.ndim == 4 and (noise is None or _is_map(noise, x)):
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        in_place = overwrite and dense and not _records(x, scale, noise, strength, bias)
        return native.modulated_epilogue(
            x, scale, noise=noise, strength=strength, bias=bias, slope=slope, gain=gain, clamp=clamp, in_place=in_place
        )
    # Leaky ReLU commutes with a positive factor: its gain goes into scale and shift.
    shift = None if bias is None else (bias * gain)[:, None, None]
    if noise is not None:
        scaled = noise * (strength * gain)
        shift = scaled if shift is None else shift + scaled
    factor = torch.full((), gain, dtype=x.dtype, device=x.device) if scale is None else (scale * gain)[..., None, None]
    factor = factor.to(x.dtype)
    y = x * factor if shift is None else torch.addcmul(shift.to(x.dtype), x, factor)
    # In place: neither product nor sum needs its result for the gradient, and the slope is not negative.
    y = F.leaky_relu(y, slope, inplace=slope > 0)
    return y if clamp is None else y.clamp(-clamp, clamp)


def _records(*values: Tensor | float | None) -> bool:
    """Whether autograd needs any of these."""
    return torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values)


def _is_map(noise: Tensor, x: Tensor) -> bool:
    """True for [H, W] and [1 or N, 1, H, W]."""
    if noise.shape[-2:] != x.shape[-2:]:
        return False
    return noise.ndim == 2 or (noise.ndim == 4 and noise.shape[1] == 1 and noise.shape[0] in (1, len(x)))


def filtered_lrelu(
    x: Tensor,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    bias: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] | Padding = (0, 0),
    slope: float = SLOPE,
    gain: float = LRELU_GAIN,
    clamp: float | None = None,
) -> Tensor:
    """As `ops.filtered_lrelu.filtered_lrelu`."""
    fits = x.ndim == 4 and slope >= 0 and gain > 0 and up >= 1 and down >= 1
    run = native.filtered_lrelu if fits and native.ready(x) else torch_filtered_lrelu
    return run(
        x,
        up_filter,
        down_filter,
        bias,
        up=up,
        down=down,
        padding=padding,
        slope=slope,
        gain=gain,
        clamp=clamp,
    )
