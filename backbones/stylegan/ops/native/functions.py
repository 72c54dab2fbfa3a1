"""The operations on the native operators, with the arguments of the torch functions. Kernels must be loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.stylegan.ops.bias_act import LRELU_GAIN, SLOPE
from backbones.stylegan.ops.filtered_lrelu import _lines
from backbones.stylegan.ops.native import operators

_ops = getattr(torch.ops, operators.NAMESPACE)


def _sum_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


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
    """As `ops.upfirdn2d.upfirdn2d`. The filter is constant: no gradient reaches it."""
    return _ops.upfirdn2d(x, filter.to(_sum_type(x)), up, down, list(padding), flip_filter, gain)  # type: ignore[no-any-return]


def affine_lrelu(
    x: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    noise: Tensor | None = None,
    slope: float = SLOPE,
    gain: float = LRELU_GAIN,
    clamp: float | None = None,
    in_place: bool = False,
) -> Tensor:
    """clamp(gain lrelu(x scale + noise + bias)) in one pass.

    x [N, C, ...], scale [N, C], bias [C], noise [1 or N, pixels]. gain > 0, slope >= 0 (1 is linear).
    in_place: into x, which must be dense in one of the two layouts; not recorded by autograd.
    """
    kind = _sum_type(x)
    scale, bias, noise = (None if t is None else t.to(kind) for t in (scale, bias, noise))
    limit = -1.0 if clamp is None else clamp
    if in_place:
        with torch.no_grad():
            _ops.affine_lrelu_(x, scale, bias, noise, slope, gain, limit)
        return x
    return _ops.affine_lrelu(x, scale, bias, noise, slope, gain, limit)  # type: ignore[no-any-return]


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
    """As `ops.bias_act.bias_act`, for gain > 0."""
    if act not in ("linear", "lrelu"):
        raise ValueError(f"act={act!r}; expected 'linear' or 'lrelu'")
    if act == "linear":
        slope = 1.0
    if gain is None:
        gain = LRELU_GAIN if act == "lrelu" else 1.0
    if dim == 1:
        return affine_lrelu(x, bias=bias, slope=slope, gain=gain, clamp=clamp)
    y = x if dim == 0 else x.movedim(dim, 1)
    if dim == 0:
        y = y[None]
    y = affine_lrelu(y, bias=bias, slope=slope, gain=gain, clamp=clamp)
    return y[0] if dim == 0 else y.movedim(1, dim)


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
    in_place: bool = False,
) -> Tensor:
    """As `ops.dispatch.modulated_epilogue`, for gain > 0. in_place: as of `affine_lrelu`."""
    if noise is not None:
        noise = (noise * strength).reshape(-1, x.shape[-2] * x.shape[-1])
    return affine_lrelu(x, scale=scale, noise=noise, bias=bias, slope=slope, gain=gain, clamp=clamp, in_place=in_place)


def filtered_lrelu(
    x: Tensor,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    bias: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] | tuple[int, int, int, int] = (0, 0),
    slope: float = SLOPE,
    gain: float = LRELU_GAIN,
    clamp: float | None = None,
) -> Tensor:
    """As `ops.filtered_lrelu.filtered_lrelu`."""
    if up_filter is None and down_filter is None and up == down == 1 and not any(padding):
        return affine_lrelu(x, bias=bias, slope=slope, gain=gain, clamp=clamp)
    kind = _sum_type(x)
    like = torch.empty(0, dtype=kind, device=x.device)
    ups = [torch.stack(each) for each in zip(*_lines(up_filter, like, up * up * gain), strict=True)]
    downs = [torch.stack(each) for each in zip(*_lines(down_filter, like), strict=True)]
    sides = list(padding) if len(padding) == 4 else list(padding * 2)
    bias = None if bias is None else bias.to(kind)
    limit = -1.0 if clamp is None else clamp
    return _ops.filtered_lrelu(x, bias, *ups, *downs, up, down, sides, slope, limit)  # type: ignore[no-any-return]
