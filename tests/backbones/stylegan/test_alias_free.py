"""StyleGAN3: filtered leaky ReLU, layout, filters, and the networks against the official outputs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backbones.stylegan.backbone import stylegan
from backbones.stylegan.formats.official import read_official
from backbones.stylegan.formats.official3 import build_alias_free_generator, is_stylegan3
from backbones.stylegan.generator import Generator
from backbones.stylegan.ops import filtered_lrelu as module
from backbones.stylegan.ops.filtered_lrelu import filtered_lrelu
from backbones.stylegan.stylegan3.config import AliasFreeConfig, infer_alias_free
from backbones.stylegan.stylegan3.filters import lowpass, radial_lowpass
from backbones.stylegan.stylegan3.layout import channel_plan, plan
from unified.errors import UserError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"
NAMES = ("sg3t_64", "sg3r_64")
SMALL = AliasFreeConfig(16, (4,) * 5, w_dim=6, z_dim=6, margin=4)


@pytest.fixture(scope="module")
def stored():
    return {name: read_official(FIXTURES / f"{name}.pkl")["G_ema"] for name in NAMES}


def expected(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def error(got, want):
    """Largest difference, as a part of the range of values."""
    return ((got - want).abs().max() / (want.max() - want.min())).item()


# --- filtered leaky ReLU ----------------------------------------------------------------------------------


def stuffed(x, filter, *, up=1, down=1, padding=(0, 0, 0, 0)):
    """Insert zeros, pad or crop, convolve with a [height, width] filter, keep each down-th sample."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up, w * up)
    y[:, :, ::up, ::up] = x
    y = F.conv2d(F.pad(y, padding), filter.flip(0, 1).expand(c, 1, *filter.shape), groups=c)
    return y[:, :, ::down, ::down]


def composition(x, up_filter, down_filter, bias, *, up, down, padding, slope, gain, clamp):
    """The definition, step by step."""

    def square(f):
        return torch.outer(f, f) if f.ndim == 1 else f

    padding = padding if len(padding) == 4 else padding * 2
    x = x + bias[:, None, None]
    x = stuffed(x, square(up_filter) * up * up, up=up, padding=padding)
    x = torch.where(x > 0, x, x * slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return stuffed(x, square(down_filter), down=down)


CASES = {
    "up 2, down 2": ((1, 3, 9, 9), 4, 4, {"up": 2, "down": 2, "padding": (3, 2)}),
    "up 4, cropped": ((2, 2, 8, 8), 8, 4, {"up": 4, "down": 2, "padding": (-3, -2)}),
    "not square": ((1, 2, 5, 11), 5, 3, {"up": 2, "down": 3, "padding": (3, 1, 2, 6)}),
    "two axes": ((1, 2, 7, 8), (3, 4), (5, 2), {"up": 2, "down": 1, "padding": (4, 2, 1, 3)}),
    "only down": ((1, 2, 12, 10), 1, (4, 4), {"up": 1, "down": 2, "padding": (0, 1)}),
    "several blocks": ((1, 1, 90, 75), 6, 6, {"up": 2, "down": 2, "padding": (4, 5)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clamp", [None, 0.4])
def test_filtered_lrelu_is_the_composition(case, clamp):
    torch.manual_seed(0)
    shape, up_taps, down_taps, settings = CASES[case]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)
    up_filter, down_filter = torch.randn(up_taps).double(), torch.randn(down_taps).double()
    settings = settings | {"slope": 0.3, "gain": 1.7, "clamp": clamp}
    got = filtered_lrelu(x, up_filter, down_filter, bias, **settings)
    want = composition(x, up_filter, down_filter, bias, **settings)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(want)
    for mine, theirs in zip(
        torch.autograd.grad(got, (x, bias), cotangent),
        torch.autograd.grad(want, (x, bias), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_filtered_lrelu_derivatives(radial, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    up_filter = torch.randn(4).double()
    down_filter = torch.randn(4, 4).double() if radial else torch.randn(4).double()

    def function(x, bias):
        y = filtered_lrelu(x, up_filter, down_filter, bias, up=2, down=2, padding=(3, 2), clamp=clamp)
        return y.pow(2)

    assert torch.autograd.gradcheck(function, (x, bias))
    assert torch.autograd.gradgradcheck(function, (x, bias))


def test_filtered_lrelu_in_float32_and_other_layouts(monkeypatch):
    torch.manual_seed(0)
    x, bias = torch.randn(2, 6, 20, 20), torch.randn(6)
    filter = lowpass(12, cutoff=4, width=4, rate=32)
    settings = {"up": 2, "down": 2, "padding": (9, 8), "slope": 0.2, "gain": math.sqrt(2), "clamp": 1.0}
    want = composition(x, filter, filter, bias, **settings)
    got = filtered_lrelu(x, filter, filter, bias, **settings)
    assert (got - want).abs().max() < 1e-5
    assert torch.equal(
        filtered_lrelu(x.contiguous(memory_format=torch.channels_last), filter, filter, bias, **settings), got
    )
    sliced = torch.randn(2, 6, 20, 40)
    sliced[..., ::2] = x
    assert torch.equal(filtered_lrelu(sliced[..., ::2], filter, filter, bias, **settings), got)
    monkeypatch.setattr(module, "_CHUNK", 1)  # one channel at a time
    torch.testing.assert_close(filtered_lrelu(x, filter, filter, bias, **settings), got, rtol=1e-5, atol=1e-6)
    assert filtered_lrelu(x[:0], filter, filter, bias, **settings).shape == (0, 6, 18, 18)
    with torch.inference_mode():
        filtered_lrelu(x[:, :, :11], filter, filter, bias, **settings)
    rows = x[:, :, :11].clone().requires_grad_()  # the same geometry, first seen in inference mode
    filtered_lrelu(rows, filter, filter, bias, **settings).sum().backward()


def test_filtered_lrelu_without_filters_is_an_activation():
    x, bias = torch.randn(1, 2, 3, 3), torch.randn(2)
    got = filtered_lrelu(x, None, None, bias, slope=1.0, gain=1.0, clamp=0.5)
    torch.testing.assert_close(got, (x + bias[:, None, None]).clamp(-0.5, 0.5))
    with pytest.raises(ValueError, match="smaller than the filter"):
        filtered_lrelu(x, torch.ones(9), None)
    with pytest.raises(ValueError, match="at least 1"):
        filtered_lrelu(x, torch.ones(3), None, up=0)


# --- layout and filters -----------------------------------------------------------------------------------


def test_layout_at_1024():
    """Names and factors of the published 1024 px network, configuration T."""
    layers = plan(AliasFreeConfig(1024, channel_plan(1024)))
    names = (
        "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 "
        "L9_532_128 L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    )
    assert [layer.name for layer in layers] == names.split()
    assert [i for i, layer in enumerate(layers) if layer.up == 4] == [2, 4, 5, 7, 9, 10]
    assert all((layer.up, layer.up_taps) in ((2, 12), (4, 24)) for layer in layers[:-1])
    assert all((layer.down, layer.down_taps) == (2, 12) for layer in layers[:-1])
    assert (layers[-1].up, layers[-1].down, layers[-1].kernel_size) == (1, 1, 1)
    assert AliasFreeConfig(1024, channel_plan(1024)).num_ws == 16
    assert channel_plan(1024, base=65536, maximum=1024)[:8] == (1024,) * 7 + (645,)  # configuration R


@pytest.mark.parametrize("resolution", [16, 32, 128, 256, 512])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_layout_fits_at_every_resolution(resolution, kernel_size):
    """What a layer computes has the size that it is named after, and the sampling theorem holds."""
    for layer in plan(AliasFreeConfig(resolution, channel_plan(resolution), kernel_size=kernel_size)):
        size = (layer.before.size + kernel_size - 1) if not layer.is_rgb else layer.before.size
        upsampled = size * layer.up + sum(layer.padding) - (layer.up_taps - 1)
        assert (upsampled - layer.down_taps) // layer.down + 1 == layer.after.size
        assert abs(layer.padding[0] - layer.padding[1]) <= layer.up  # centred
        assert layer.after.cutoff <= layer.after.rate / 2 and layer.after.half_width > 0


def response(filter, x, y=0.0):
    """|sum of filter exp(-2 pi i (x a + y b))| at frequencies x, y in cycles per sample."""
    if filter.ndim == 1:
        filter = torch.outer(filter, filter)
    at = torch.arange(len(filter), dtype=torch.float64) - (len(filter) - 1) / 2
    wave = torch.exp(-2j * math.pi * (x * at[:, None] + y * at[None]))
    return (filter.double() * wave).sum().abs().item()


def test_filters_pass_and_stop():
    layer = plan(AliasFreeConfig(256, channel_plan(256)))[4]
    design = {
        "cutoff": layer.after.cutoff / layer.rate,
        "width": 2 * layer.after.half_width / layer.rate,
        "rate": 1.0,
    }
    edge = design["cutoff"] + design["width"] / 2
    for filter in (lowpass(12, **design), radial_lowpass(12, **design)):
        assert abs(filter.sum() - 1) < 1e-6 and torch.equal(filter, filter.flip(0))
        assert abs(response(filter, design["cutoff"]) - 0.5) < 0.07
        assert response(filter, 0.02) > 0.95
        assert max(response(filter, x) for x in torch.linspace(edge, 0.5, 20).tolist()) < 0.02
    # The same gain in every direction: so for the radial filter, not for the separable one.
    round_one, square_one = radial_lowpass(12, **design), lowpass(12, **design)
    beyond = design["cutoff"] + design["width"] / 4
    diagonal = beyond / math.sqrt(2)
    assert abs(response(round_one, beyond) - response(round_one, diagonal, diagonal)) < 0.01
    assert abs(response(square_one, beyond) - response(square_one, diagonal, diagonal)) > 0.05
    assert lowpass(1, **design) is None and radial_lowpass(1, **design) is None


# --- the networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_official_outputs(name, stored):
    want = expected(name)
    generator = build_alias_free_generator(stored[name])
    ws = generator.mapping(want["z"])
    truncated = generator.mapping(want["z"], truncation_psi=0.7)
    assert error(ws, want["ws"]) <= 1e-4
    assert error(truncated, want["ws_trunc07"]) <= 1e-4
    together = generator.synthesis(ws)
    assert error(together, want["img"]) <= 1e-4
    assert error(generator.synthesis(truncated), want["img_trunc07"]) <= 1e-4
    assert error(generator.synthesis(want["wplus"]), want["img_wplus"]) <= 1e-4
    alone = torch.cat([generator.synthesis(one) for one in ws])  # [num_ws, w_dim]: one code, not a batch
    assert error(together, alone) <= 1e-5
    for noise in ("random", "none"):  # there is none
        assert torch.equal(generator.synthesis(ws, noise=noise), together)


@pytest.mark.parametrize("name", NAMES)
def test_names_filters_and_configuration_of_official_files(name, stored):
    stored = stored[name]
    assert is_stylegan3(stored)
    config = infer_alias_free(stored.tensors)
    assert config.resolution == 64 and config.radial_filters == (name == "sg3r_64")
    fresh = Generator(config).state_dict()
    assert fresh.keys() == stored.tensors.keys()
    for key in fresh:
        assert fresh[key].shape == stored.tensors[key].shape
        if key.endswith("_filter"):
            torch.testing.assert_close(fresh[key], stored.tensors[key], rtol=1e-5, atol=1e-7)
    for layer in plan(config):  # the file says what its layers were made with
        said = {key.removeprefix(f"synthesis.{layer.name}."): value for key, value in stored.attributes.items()}
        assert (said["up_factor"], said["down_factor"]) == (layer.up, layer.down)
        assert (said["in_cutoff"], said["out_cutoff"]) == pytest.approx((layer.before.cutoff, layer.after.cutoff))
        widths = (layer.before.half_width, layer.after.half_width)
        assert (said["in_half_width"], said["out_half_width"]) == pytest.approx(widths)
        assert said["tmp_sampling_rate"] == layer.rate and said["down_radial"] == layer.radial
    limited = replace(stored, arguments=stored.arguments | {"conv_clamp": 1.0, "margin_size": 10})
    assert build_alias_free_generator(limited).config.conv_clamp == 1.0
    with pytest.raises(UserError, match="does not hold a"):
        build_alias_free_generator(replace(stored, arguments={"margin_size": 4}))
    with pytest.raises(UserError, match="is no number"):
        build_alias_free_generator(replace(stored, arguments={"margin_size": "wide"}))
    for absurd in ({"filter_size": 10**9}, {"first_cutoff": 1e-9}, {"margin_size": None}, {"output_scale": []}):
        with pytest.raises(UserError):
            build_alias_free_generator(replace(stored, arguments=absurd))
    with pytest.raises(UserError, match="not a StyleGAN3 generator"):
        infer_alias_free({"synthesis.b4.const": torch.zeros(1)})


@pytest.mark.parametrize("turns", [1, 2, 3])
@torch.no_grad()
def test_configuration_r_turns_with_its_input(turns, stored):
    """A quarter turn of the coordinates is a quarter turn of the picture: nothing depends on the grid."""
    generator = build_alias_free_generator(stored["sg3r_64"])
    ws = expected("sg3r_64")["ws"][:1]
    plain = generator.synthesis(ws)
    angle = turns * math.pi / 2
    cos, sin = math.cos(angle), math.sin(angle)
    generator.synthesis.input.transform.copy_(torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]))
    assert error(generator.synthesis(ws), plain.rot90(turns, (2, 3))) < 1e-4
    assert error(generator.synthesis(ws), plain) > 0.1


@torch.no_grad()
def test_configuration_t_moves_with_its_input(stored):
    """Moving the coordinates by four pixels moves the picture by four; the margins keep borders out of it."""
    generator = build_alias_free_generator(stored["sg3t_64"])
    ws = expected("sg3t_64")["ws"][:1]
    plain = generator.synthesis(ws)
    generator.synthesis.input.transform[0, 2] = -4 / 64
    moved = generator.synthesis(ws)
    follows = error(moved[..., 8:-8, 12:-8], plain[..., 8:-8, 8:-12])
    stays = error(moved[..., 8:-8, 12:-8], plain[..., 8:-8, 12:-8])
    assert follows < 5e-4 < 2e-2 < stays


def test_configuration_round_trip_and_nonsense():
    config = replace(SMALL, kernel_size=1, radial_filters=True, c_dim=3, conv_clamp=None)
    assert AliasFreeConfig.from_dict(config.to_dict()) == config
    generator = Generator(config)
    known = {"margin": 4, "conv_clamp": None}
    assert infer_alias_free(generator.state_dict(), **known) == config
    assert generator(torch.randn(2, 6), torch.randn(2, 3)).shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match="power of two"):
        AliasFreeConfig(48, (4,) * 5)
    with pytest.raises(UserError, match="more than 2 layers"):
        AliasFreeConfig(64, (4, 4))
    with pytest.raises(UserError, match="does not fit AliasFreeConfig"):
        AliasFreeConfig.from_dict({"resolution": 64, "channel": 3})


@pytest.mark.parametrize("shape", [(6,), (6, 6), (2, 6, 6), (2, 7, 5)])
def test_wrong_codes_are_refused(shape):
    with pytest.raises(UserError, match=r"expects \[N, 7, 6\]"):
        Generator(SMALL).synthesis(torch.zeros(shape))


def test_gradient_of_a_code_and_of_weights():
    torch.manual_seed(0)
    generator = Generator(SMALL).double()
    torch.nn.init.normal_(generator.synthesis.input.affine.weight)  # zero at first: w would not turn the input
    ws = torch.randn(1, 7, 6, dtype=torch.float64, requires_grad=True)
    layer = generator.synthesis.get_submodule(generator.synthesis.plan[1].name)

    def function(ws, weight):
        layer.__dict__["_parameters"]["weight"] = weight
        return generator.synthesis(ws)[..., ::5, ::5]

    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (ws, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (ws, weight), fast_mode=True, atol=1e-4)


@torch.no_grad()
def test_a_shadow_shares_tensors_and_gives_the_same_bits():
    torch.manual_seed(0)
    generator = Generator(SMALL).eval()
    tensors = [*generator.parameters(), *generator.buffers()]
    shadow = copy.deepcopy(generator, memo={id(t): t for t in tensors})
    assert all(a is b for a, b in zip(tensors, [*shadow.parameters(), *shadow.buffers()], strict=True))
    z = torch.randn(2, 6)
    before = generator(z)
    assert torch.equal(before, shadow(z))
    layers = [shadow.synthesis.get_submodule(layer.name) for layer in shadow.synthesis.plan]
    assert all(layer.affine(torch.zeros(1, 6)).shape[1] == layer.weight.shape[1] for layer in layers)
    layers[1].affine = torch.nn.Linear(6, 4)
    assert not torch.equal(before, shadow(z))
    assert torch.equal(before, generator(z))


@torch.no_grad()
def test_magnitudes_are_tracked_and_divided_out():
    torch.manual_seed(0)
    generator = Generator(SMALL)
    synthesis, ws = generator.synthesis, torch.randn(2, 7, 6)
    inputs = {}
    for layer in synthesis.plan:
        synthesis.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, args, name=layer.name: inputs.__setitem__(name, args[0])
        )
    synthesis(ws, track=True)
    keep = 0.5 ** (2 / 20_000)
    for layer in synthesis.plan:
        power = inputs[layer.name].square().mean()
        tracked = synthesis.get_submodule(layer.name).magnitude_ema
        torch.testing.assert_close(tracked, keep + (1 - keep) * power, rtol=1e-5, atol=1e-6)
    rgb = synthesis.get_submodule(synthesis.plan[-1].name)
    plain = synthesis(ws)
    rgb.magnitude_ema *= 4
    torch.testing.assert_close(synthesis(ws), plain / 2, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_as_a_backbone(stored):
    backbone = stylegan("three", build_alias_free_generator(stored["sg3t_64"]))
    want = expected("sg3t_64")
    assert backbone.resolution == 64 and backbone.style_shape() == (16, 32)
    assert error(backbone.synthesis(backbone.mapping(want["z"])), want["img"]) <= 1e-4
    _, paths = backbone.adaptable()
    assert len(paths) == 14 and paths[0] == "synthesis.L0_36_24.weight"
    assert set(paths) < set(backbone.tunable()[1])
    images = want["img_trunc07"][:1] / 2 + 0.5
    concept = backbone.invert(images, space="w > weights", steps=1)
    assert backbone.generate(concept, output="pt").shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match="has noise maps"):
        backbone.invert(images, space="w & noise", steps=1)
    tuned = backbone.invert(images, recipe="pti", steps=1)
    assert [code.space for code in tuned.codes] == ["w", "weights"]
