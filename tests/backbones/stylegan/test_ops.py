"""The operations against their definitions, and their derivatives to second order."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backbones.stylegan.ops import (
    bias_act,
    downsample2d,
    make_filter,
    modulated_conv2d,
    upfirdn2d,
    upsample2d,
)


def upfirdn_by_definition(x: Tensor, f: Tensor, up: int, down: int, padding: tuple[int, ...], flip: bool) -> Tensor:
    """The sum of the definition, sample by sample, for one channel [H, W]."""
    stuffed = torch.zeros(x.shape[0] * up, x.shape[1] * up, dtype=x.dtype)
    stuffed[::up, ::up] = x
    stuffed = F.pad(stuffed, padding)
    taps = f if flip else f.flip(0, 1)
    kh, kw = f.shape
    rows = range(0, stuffed.shape[0] - kh + 1, down)
    columns = range(0, stuffed.shape[1] - kw + 1, down)
    return torch.stack([torch.stack([(stuffed[i : i + kh, j : j + kw] * taps).sum() for j in columns]) for i in rows])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(3, 6),
    width=st.integers(3, 6),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.tuples(*[st.integers(-1, 4)] * 4),
    flip=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_upfirdn2d_is_its_definition(height, width, kernel, up, down, padding, flip, channels_last, seed):
    left, right, top, bottom = padding
    if height * up + top + bottom < kernel[0] or width * up + left + right < kernel[1]:
        return
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
    f = torch.randn(*kernel, dtype=torch.float64, generator=generator)
    given_x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    got = upfirdn2d(given_x, f, up=up, down=down, padding=padding, flip_filter=flip, gain=1.5)
    for n in range(2):
        for c in range(3):
            expected = 1.5 * upfirdn_by_definition(x[n, c], f, up, down, padding, flip)
            torch.testing.assert_close(got[n, c], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_upfirdn2d_second_derivatives(up, down):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    f = torch.randn(3, 4, dtype=torch.float64)

    def function(x):
        return upfirdn2d(x, f, up=up, down=down, padding=(2, 1, 1, 2)).square()

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_upsampling_keeps_a_constant_and_is_bilinear_inside():
    f = make_filter().double()
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    up = upsample2d(x, f)
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up[..., 2:-2, 2:-2], bilinear[..., 2:-2, 2:-2])
    constant = torch.ones_like(x)
    torch.testing.assert_close(upsample2d(constant, f)[..., 2:-2, 2:-2], torch.ones(1, 2, 12, 12).double())
    torch.testing.assert_close(downsample2d(constant, f)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2).double())


def test_empty_batch():
    assert upsample2d(torch.zeros(0, 3, 4, 4), make_filter()).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_bias_act(act, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    y = bias_act(x, b, act=act, clamp=clamp)
    z = x + b[:, None]
    expected = torch.where(z > 0, z, 0.2 * z) * math.sqrt(2) if act == "lrelu" else z
    if clamp:
        expected = expected.clamp(-clamp, clamp)
    torch.testing.assert_close(y, expected)

    def function(x, b):
        return bias_act(x, b, act=act, clamp=clamp).pow(3)

    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


def modulated_conv_per_sample(x, weight, styles, up, f, demodulate):
    """The paper's formula: weights of each picture, a convolution of its own for each."""
    pictures = []
    for one, s in zip(x, styles, strict=True):
        w = weight * s[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up == 1:
            pictures.append(F.conv2d(one[None], w, padding=w.shape[-1] // 2))
        else:
            y = F.conv_transpose2d(one[None], w.transpose(0, 1), stride=2)
            pictures.append(upfirdn2d(y, f, padding=(1, 1, 1, 1), gain=4))
    return torch.cat(pictures)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_dense_modulated_convolution_equals_the_per_sample_formula(up, demodulate):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 6, dtype=torch.float64)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    styles = torch.randn(3, 5, dtype=torch.float64)
    noise = torch.randn(3, 1, 6 * up, 6 * up, dtype=torch.float64)
    f = make_filter().double()
    got = modulated_conv2d(x, weight, styles, up=up, resample_filter=f, demodulate=demodulate, noise=noise)
    expected = modulated_conv_per_sample(x, weight, styles, up, f, demodulate) + noise
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("up", [1, 2])
def test_modulated_convolution_second_derivatives(up):
    torch.manual_seed(1)
    x, weight, styles = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 2, 3, 3), (2, 2, 3, 3), (2, 2))
    )
    f = make_filter().double()

    def function(x, weight, styles):
        return modulated_conv2d(x, weight, styles, up=up, resample_filter=f)

    assert torch.autograd.gradcheck(function, (x, weight, styles))
    assert torch.autograd.gradgradcheck(function, (x, weight, styles))
