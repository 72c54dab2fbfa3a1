"""The native operators: schemas, shapes without data, and derivatives to any order. No kernel is loaded here.

`affine_lrelu` is y = clamp(gain lrelu(x scale[n, c] + noise[n, pixel] + bias[c])): bias_act, and what follows a
modulated convolution. With phi' recovered from y, which has the sign of its argument,

    gx = phi' g scale,  sums[n, c] = sum over pixels of phi' g,  products[n, c] = sum over pixels of phi' g x

come out of one pass; they are linear in g, and `lrelu_gate`, g -> phi' g, is its own transpose.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import Library

NAMESPACE = "unified_stylegan"

_FILTERS = "Tensor up_v, Tensor up_h, Tensor down_v, Tensor down_h, int up, int down, int[] padding"
SCHEMAS = (
    "upfirdn2d(Tensor x, Tensor filter, int up, int down, int[] padding, bool flip, float gain) -> Tensor",
    "affine_lrelu(Tensor x, Tensor? scale, Tensor? bias, Tensor? noise, float slope, float gain, float clamp)"
    " -> Tensor",
    "affine_lrelu_(Tensor(a!) x, Tensor? scale, Tensor? bias, Tensor? noise, float slope, float gain, float clamp)"
    " -> ()",
    "affine_lrelu_backward(Tensor grad, Tensor y, Tensor? x, Tensor? scale, float slope, float gain, float clamp)"
    " -> (Tensor, Tensor, Tensor)",
    "lrelu_gate(Tensor grad, Tensor y, float slope, float gain, float clamp) -> Tensor",
    f"filtered_lrelu(Tensor x, Tensor? bias, {_FILTERS}, float slope, float clamp) -> Tensor",
    f"filtered_lrelu_gated(Tensor v, Tensor x, Tensor? bias, {_FILTERS}, float slope, float clamp, bool backwards)"
    " -> Tensor",
)


def define(namespace: str) -> Library:
    """Declare the operators under `namespace`. The declaration lives as long as what is returned."""
    library = Library(namespace, "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    return library


_library = define(NAMESPACE)
_ops = getattr(torch.ops, NAMESPACE)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _sum_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _register_fake(name: str) -> Any:
    return torch.library.register_fake(f"{NAMESPACE}::{name}", lib=_library)


def _register_autograd(name: str, backward: Any, setup_context: Any) -> None:
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_library)


# upfirdn2d


@_register_fake("upfirdn2d")
def _(x: Tensor, filter: Tensor, up: int, down: int, padding: list[int], flip: bool, gain: float) -> Tensor:
    left, right, top, bottom = padding
    height = (x.shape[2] * up + top + bottom - filter.shape[0]) // down + 1
    width = (x.shape[3] * up + left + right - filter.shape[1]) // down + 1
    return torch.empty(
        (x.shape[0], x.shape[1], height, width), dtype=x.dtype, device=x.device, memory_format=_layout(x)
    )


def _upfirdn2d_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filter, ctx.up, ctx.down, ctx.padding, ctx.flip, ctx.gain = inputs
    ctx.save_for_backward(filter)
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]


def _upfirdn2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (filter,) = ctx.saved_tensors
    left, _, top, _ = ctx.padding
    up, down = ctx.up, ctx.down
    padding = []
    for before, taps, size, out in (
        (left, filter.shape[1], ctx.in_size[1], ctx.out_size[1]),
        (top, filter.shape[0], ctx.in_size[0], ctx.out_size[0]),
    ):
        padding += [taps - 1 - before, size * up - out * down + before - up + 1]
    gx = _ops.upfirdn2d(grad, filter, down, up, padding, not ctx.flip, ctx.gain)
    return gx, None, None, None, None, None, None


_register_autograd("upfirdn2d", _upfirdn2d_backward, _upfirdn2d_context)


# affine_lrelu


@_register_fake("affine_lrelu")
def _(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    noise: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


@_register_fake("affine_lrelu_")
def _(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    noise: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> None:
    return None


def _affine_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, _, noise, *ctx.settings = inputs
    ctx.has_scale = scale is not None
    # The input is needed for the scale's gradient alone.
    kept = x if scale is not None and ctx.needs_input_grad[1] else None
    ctx.save_for_backward(output, scale, kept)
    ctx.noise_count = None if noise is None else noise.shape[0]


def _affine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    y, scale, x = ctx.saved_tensors
    _, need_scale, need_bias, need_noise = ctx.needs_input_grad[:4]
    if need_scale or need_bias:
        gx, sums, products = _ops.affine_lrelu_backward(grad, y, x, scale, *ctx.settings)
        g_scale, g_bias = products if need_scale else None, sums.sum(0) if need_bias else None
    else:
        gx, g_scale, g_bias = _ops.lrelu_gate(grad, y, *ctx.settings), None, None
        if scale is not None:
            gx = gx * scale.to(gx.dtype).reshape(*scale.shape, *[1] * (gx.ndim - 2))
    g_noise = None
    if need_noise:
        g_noise = _ops.lrelu_gate(grad, y, *ctx.settings).sum(1, dtype=_sum_type(y)).flatten(1)
        if ctx.noise_count == 1:
            g_noise = g_noise.sum(0, keepdim=True)
    return gx, g_scale, g_bias, g_noise, None, None, None


_register_autograd("affine_lrelu", _affine_backward, _affine_context)


@_register_fake("affine_lrelu_backward")
def _(
    grad: Tensor,
    y: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> tuple[Tensor, Tensor, Tensor]:
    gx = torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=_layout(y))
    sums = y.new_empty(y.shape[:2], dtype=_sum_type(y))
    products = y.new_empty((y.shape[0] if x is not None else 0, y.shape[1]), dtype=_sum_type(y))
    return gx, sums, products


def _affine_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, y, x, scale, *ctx.settings = inputs
    ctx.save_for_backward(grad, y, x, scale)
    ctx.set_materialize_grads(True)


def _affine_backward_backward(ctx: Any, v: Tensor, v_sums: Tensor, v_products: Tensor) -> tuple[Tensor | None, ...]:
    grad, y, x, scale = ctx.saved_tensors
    shape = (*y.shape[:2], *[1] * (y.ndim - 2))
    # The transpose of g -> (phi' g scale, sums, products), then the derivatives of that by scale and x.
    total = v if scale is None else v * scale.to(v.dtype).reshape(shape)
    total = total + v_sums.to(v.dtype).reshape(shape)
    if x is not None:
        total = total + v_products.to(v.dtype).reshape(shape) * x
    g_grad = _ops.lrelu_gate(total, y, *ctx.settings)
    g_x = g_scale = None
    if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
        gated = _ops.lrelu_gate(grad, y, *ctx.settings)
        if x is not None and ctx.needs_input_grad[2]:
            g_x = gated * v_products.to(v.dtype).reshape(shape)
        if scale is not None and ctx.needs_input_grad[3]:
            g_scale = (gated * v).flatten(2).sum(2, dtype=scale.dtype) if y.ndim > 2 else (gated * v).to(scale.dtype)
    return g_grad, None, g_x, g_scale, None, None, None


_register_autograd("affine_lrelu_backward", _affine_backward_backward, _affine_backward_context)


@_register_fake("lrelu_gate")
def _(grad: Tensor, y: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    return torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=_layout(y))


def _gate_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, y, *ctx.settings = inputs
    ctx.save_for_backward(y)


def _gate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (y,) = ctx.saved_tensors
    return _ops.lrelu_gate(grad, y, *ctx.settings), None, None, None, None


_register_autograd("lrelu_gate", _gate_backward, _gate_context)


# filtered_lrelu


def _low_size(x: Tensor, up_v: Tensor, up_h: Tensor, down_v: Tensor, down_h: Tensor, up: int, down: int,
              padding: list[int]) -> tuple[int, int]:  # fmt: skip
    left, right, top, bottom = padding
    high = x.shape[2] * up + top + bottom - up_v.shape[1] + 1, x.shape[3] * up + left + right - up_h.shape[1] + 1
    return (high[0] - down_v.shape[1]) // down + 1, (high[1] - down_h.shape[1]) // down + 1


@_register_fake("filtered_lrelu")
def _(
    x: Tensor,
    bias: Tensor | None,
    up_v: Tensor,
    up_h: Tensor,
    down_v: Tensor,
    down_h: Tensor,
    up: int,
    down: int,
    padding: list[int],
    slope: float,
    clamp: float,
) -> Tensor:
    size = _low_size(x, up_v, up_h, down_v, down_h, up, down, padding)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _filtered_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, *filters, ctx.up, ctx.down, ctx.padding, ctx.slope, ctx.clamp = inputs
    ctx.save_for_backward(x, bias, *filters)


def _filtered_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, *filters = ctx.saved_tensors
    gx = _ops.filtered_lrelu_gated(grad, x, bias, *filters, ctx.up, ctx.down, ctx.padding, ctx.slope, ctx.clamp, True)
    g_bias = gx.sum((0, 2, 3), dtype=bias.dtype) if bias is not None and ctx.needs_input_grad[1] else None
    return gx, g_bias, *[None] * 9


_register_autograd("filtered_lrelu", _filtered_backward, _filtered_context)


@_register_fake("filtered_lrelu_gated")
def _(
    v: Tensor,
    x: Tensor,
    bias: Tensor | None,
    up_v: Tensor,
    up_h: Tensor,
    down_v: Tensor,
    down_h: Tensor,
    up: int,
    down: int,
    padding: list[int],
    slope: float,
    clamp: float,
    backwards: bool,
) -> Tensor:
    size = _low_size(x, up_v, up_h, down_v, down_h, up, down, padding)
    shape = x.shape if backwards else (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _gated_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, x, bias, *filters, ctx.up, ctx.down, ctx.padding, ctx.slope, ctx.clamp, ctx.backwards = inputs
    ctx.save_for_backward(x, bias, *filters)


def _gated_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, *filters = ctx.saved_tensors
    settings = (ctx.up, ctx.down, ctx.padding, ctx.slope, ctx.clamp, not ctx.backwards)
    return _ops.filtered_lrelu_gated(grad, x, bias, *filters, *settings), *[None] * 12


_register_autograd("filtered_lrelu_gated", _gated_backward, _gated_context)
