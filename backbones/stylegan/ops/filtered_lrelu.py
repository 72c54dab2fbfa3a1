"""Leaky ReLU between two resampling filters (Karras et al. 2021, section 3.2, "filtered nonlinearities").

Upsampling, filtering and downsampling along one axis is one linear map, a banded matrix of which only a
strip around the diagonal is not zero. Both axes of all channels are multiplied with the
blocks of that strip: no zeros are inserted, nothing is computed that downsampling drops, and matrix
products run at the processor's full speed. Only a downsampling filter that is no product of two lines (the
radial ones of configuration R) is applied as a strided depthwise convolution.

Channels are taken a few at a time, so that the signal at the high sampling rate stays in the cache and
never exists as a whole. The backward pass computes it once more instead of keeping it: only the input is
saved. With U and D the two resamplings, phi the nonlinearity and * the product of elements,

    y  = D phi(U x)            forward
    gx = U' (phi'(U x) * D' g)  backward; linear in g, so its own backward is D (phi'(U x) * U v).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.stylegan.ops.bias_act import LRELU_GAIN, SLOPE, bias_act

Lines = list[tuple[Tensor, Tensor]]

_BLOCK = 64  # rows of a block: of 32, 48, 64, 96 and 128 the fastest or next to it at 36, 84, 148 and 276 px
_CHUNK = 1 << 19  # values at the high sampling rate that are worked on at a time on a CPU
_CHUNK_DEPTHWISE = 1 << 21  # depthwise convolutions need several channels at once


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
    """Add bias, insert up-1 zeros after each sample, pad, filter with gain up^2, clamp(gain lrelu(.)), filter,
    keep each down-th sample.

    x: [N, C, H, W]. bias: [C]. Filters: [taps], used on both axes, or [height, width]; None for no filter.
    Filters are convolved (flipped), constant (no gradient reaches them), and sum to 1 as a rule.
    padding: (before, after) on both axes or (left, right, top, bottom), in samples of the upsampled grid;
    negative values crop.
    Returns [N, C, H', W'] with H' = (H up + top + bottom - taps_up + 1 - taps_down) // down + 1.
    Differentiable twice and more with respect to x and bias. Raises ValueError for sizes that leave nothing.
    """
    if up < 1 or down < 1:
        raise ValueError(f"up={up}, down={down}: both must be at least 1")
    if up_filter is None and down_filter is None and up == down == 1 and not any(padding):
        return bias_act(x, bias, slope=slope, gain=gain, clamp=clamp)
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    left, right, top, bottom = padding if len(padding) == 4 else padding * 2
    height, width = x.shape[-2:]
    gain_all = up * up * gain  # lrelu(g x) = g lrelu(x)
    first = Resampling.of(
        _lines(up_filter, x, gain_all), (height, width), up=up, padding=((top, bottom), (left, right))
    )
    second = Resampling.of(_lines(down_filter, x), first.size, down=down)
    settings = _Settings(first, second, slope, clamp)
    y = _FilteredLrelu.apply(x.reshape(-1, height, width), settings)
    return y.view(*x.shape[:-2], *second.size)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Axis:
    """The geometry of one axis: output o is the sum over i of filter[taps - 1 - t] x[i],
    t = i up + before - o down."""

    taps: int
    size: int
    up: int
    down: int
    before: int
    after: int

    @property
    def out(self) -> int:
        return (self.size * self.up + self.before + self.after - self.taps) // self.down + 1


@dataclass(frozen=True)
class _Block:
    """Rows `start` to `stop` of a banded matrix: `values` [stop - start, last - first] for inputs `first` to
    `last`."""

    start: int
    stop: int
    first: int
    last: int
    values: Tensor


@dataclass(frozen=True)
class _Banded:
    """A banded matrix [rows, columns] as blocks."""

    rows: int
    blocks: tuple[_Block, ...]

    def on_rows(self, x: Tensor, out: Tensor) -> None:
        """out [C, rows, W] <- matrix x, x [C, columns, W]."""
        for b in self.blocks:
            matrix = b.values.expand(len(x), -1, -1)
            torch.bmm(matrix, x[:, b.first : b.last], out=out[:, b.start : b.stop])

    def on_columns(self, x: Tensor, out: Tensor) -> None:
        """out [n, rows] <- x matrix^T, x [n, columns]."""
        for b in self.blocks:
            torch.mm(x[:, b.first : b.last], b.values.t(), out=out[:, b.start : b.stop])


@dataclass(frozen=True)
class Resampling:
    """A linear map of pictures, sum over k of vertical[k] x horizontal[k]^T, and its transpose.

    A filter that is the product of two lines has one term, others have as many as their rank.
    kernel, stride: the same as one depthwise convolution, for several terms where nothing is enlarged or padded:
    given eight channels or more, a fourth to a sixth of the time of the products.
    """

    terms: tuple[tuple[_Banded, _Banded], ...]
    size: tuple[int, int]
    transposed: Resampling | None = None
    kernel: Tensor | None = None
    stride: int = 1

    @staticmethod
    def of(
        lines: Lines,
        size: tuple[int, int],
        *,
        up: int = 1,
        down: int = 1,
        padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    ) -> Resampling:
        """lines: the filter's (vertical, horizontal) terms. size: (height, width) of the pictures.
        padding: (top, bottom), (left, right)."""
        taps = (len(lines[0][0]), len(lines[0][1]))
        rows, columns = (_Axis(taps[i], size[i], up, down, *padding[i]) for i in (0, 1))
        if min(rows.out, columns.out) < 1:
            raise ValueError(f"a picture of {size} with padding {padding} is smaller than the filter, {taps}")

        def terms(transposed: bool) -> tuple[tuple[_Banded, _Banded], ...]:
            result = []
            for v, h in lines:
                horizontal = _banded(h, columns, transposed)
                same = v is h and rows == columns
                result.append((horizontal if same else _banded(v, rows, transposed), horizontal))
            return tuple(result)

        transposed = Resampling(terms(True), (rows.size, columns.size))
        kernel = None
        if len(lines) > 1 and up == 1 and not any(map(any, padding)):
            kernel = torch.stack([torch.outer(v, h) for v, h in lines]).sum(0).flip(0, 1)
        return Resampling(terms(False), (rows.out, columns.out), transposed, kernel, down)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [C, H, W] -> [C, *size], into `out` if given; not recorded by autograd."""
        count, height, width = x.shape
        out = x.new_empty(count, *self.size) if out is None else out
        if self.kernel is not None:
            kernel = self.kernel.expand(count, 1, *self.kernel.shape)
            return out.copy_(F.conv2d(x[None], kernel, stride=self.stride, groups=count)[0])
        for k, (vertical, horizontal) in enumerate(self.terms):
            y = x.new_empty(count * height, horizontal.rows)
            horizontal.on_columns(x.reshape(-1, width), y)
            y = y.view(count, height, -1)
            if k == 0:
                vertical.on_rows(y, out)
            else:
                more = torch.empty_like(out)
                vertical.on_rows(y, more)
                out += more
        return out


@dataclass(frozen=True)
class _Settings:
    first: Resampling
    second: Resampling
    slope: float
    clamp: float | None

    def activate(self, x: Tensor) -> Tensor:
        """In place."""
        F.leaky_relu_(x, self.slope)
        return x if self.clamp is None else x.clamp_(-self.clamp, self.clamp)

    def derivative(self, x: Tensor) -> Tensor:
        """phi'(x)."""
        factor = torch.where(x > 0, x.new_ones(()), x.new_full((), self.slope))
        if self.clamp is None:
            return factor
        return factor.mul_((x * factor).abs_() <= self.clamp)

    def chunks(self, x: Tensor) -> Iterator[slice]:
        height, width = self.first.size
        budget = _CHUNK if self.second.kernel is None else _CHUNK_DEPTHWISE
        step = max(1, budget // (height * width)) if x.device.type == "cpu" else max(1, len(x))
        for start in range(0, len(x), step):
            yield slice(start, start + step)


class _FilteredLrelu(torch.autograd.Function):
    """x [C, H, W] -> [C, H', W']."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: _Settings) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = settings
        y = x.new_empty(len(x), *settings.second.size)
        for part in settings.chunks(x):
            settings.second(settings.activate(settings.first(x[part])), out=y[part])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _Gated.apply(grad, x, ctx.settings, True), None


class _Gated(torch.autograd.Function):
    """v -> U' (phi'(U x) * D' v) if `backwards`, else v -> D (phi'(U x) * U v): each the other's derivative.

    phi' is piecewise constant: no gradient reaches x.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, settings: _Settings, backwards: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings, ctx.backwards = settings, backwards
        first, second = settings.first, settings.second
        before, after = first, second
        if backwards:
            assert first.transposed is not None and second.transposed is not None
            before, after = second.transposed, first.transposed
        y = v.new_empty(len(v), *after.size)
        for part in settings.chunks(x):
            after(settings.derivative(first(x[part])).mul_(before(v[part])), out=y[part])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return _Gated.apply(grad, x, ctx.settings, not ctx.backwards), None, None, None


def _lines(filter: Tensor | None, like: Tensor, gain: float = 1.0) -> Lines:
    """(v, h) with gain filter = sum of v h^T, as few as the precision of the filter's values allows.

    A radially symmetric filter of 12 x 12 taps has 2 or 3 in float32.
    """
    if filter is None:
        filter = torch.ones(1)
    filter = filter.detach().to(like.device)
    if filter.ndim == 1:
        line = (filter * math.sqrt(gain)).to(like.dtype)
        return [(line, line)]
    left, sizes, right = torch.linalg.svd(filter.double() * gain)
    kept = int((sizes > sizes[0] * max(filter.shape) * torch.finfo(filter.dtype).eps).sum())
    roots = sizes[: max(kept, 1)].sqrt()
    return [((left[:, k] * r).to(like.dtype), (right[k] * r).to(like.dtype)) for k, r in enumerate(roots)]


def _banded(line: Tensor, axis: _Axis, transposed: bool) -> _Banded:
    values = torch.cat([line.flip(0), line.new_zeros(1)])
    blocks = tuple(
        _Block(start, stop, first, last, values[index.to(line.device)])
        for start, stop, first, last, index in _indices(axis, transposed)
    )
    return _Banded(axis.size if transposed else axis.out, blocks)


@lru_cache(maxsize=512)
def _indices(axis: _Axis, transposed: bool) -> tuple[tuple[int, int, int, int, Tensor], ...]:
    """Of each block (start, stop, first, last, index): which filter value its entries are, `taps` for zero."""
    rows, columns = (axis.size, axis.out) if transposed else (axis.out, axis.size)
    row_step, column_step = (axis.up, axis.down) if transposed else (axis.down, axis.up)
    result = []
    block = max(_BLOCK // row_step, 1)  # a block reads about as many inputs whatever the factor
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        # Entries differ from zero where 0 <= i up + before - o down < taps.
        if transposed:
            low = start * row_step + axis.before - axis.taps + 1
            high = (stop - 1) * row_step + axis.before
        else:
            low = start * row_step - axis.before
            high = (stop - 1) * row_step - axis.before + axis.taps - 1
        first = min(max(-(-low // column_step), 0), columns)
        last = max(min(high // column_step + 1, columns), first)
        with torch.inference_mode(False):  # the cache outlives this call
            row, column = torch.arange(start, stop)[:, None], torch.arange(first, last)
            i, o = (row, column) if transposed else (column, row)
            t = i * axis.up + axis.before - o * axis.down
            index = torch.where((t >= 0) & (t < axis.taps), t, axis.taps)
        result.append((start, stop, first, last, index))
    return tuple(result)
