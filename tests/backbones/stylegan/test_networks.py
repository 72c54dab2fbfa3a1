"""The networks against the outputs of the official ones, and what other code relies on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.stylegan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, channel_plan
from backbones.stylegan.config import infer_discriminator, infer_generator
from backbones.stylegan.discriminator import minibatch_deviation
from backbones.stylegan.formats import load_networks, load_official, save_networks
from unified.errors import UserError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"
NAMES = ("sg2_64", "sg2_32_cond", "sg2_32_resnet")
SMALL = GeneratorConfig(16, (8, 8, 6), w_dim=8, z_dim=8, mapping_layers=2)


def expected(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def error(got, want):
    """Largest difference, as a part of the range of values."""
    return ((got - want).abs().max() / (want.max() - want.min())).item()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_official_outputs(name):
    want = expected(name)
    generator, _ = load_official(FIXTURES / f"{name}.pkl")
    ws = generator.mapping(want["z"], want.get("c"))
    truncated = generator.mapping(want["z"], want.get("c"), truncation_psi=0.7)
    assert error(ws, want["ws"]) <= 1e-4
    assert error(truncated, want["ws_trunc07"]) <= 1e-4
    assert error(generator.synthesis(ws), want["img"]) <= 1e-4
    assert error(generator.synthesis(truncated), want["img_trunc07"]) <= 1e-4
    assert error(generator.synthesis(want["wplus"]), want["img_wplus"]) <= 1e-4


@torch.no_grad()
def test_official_discriminator_logits():
    want = expected("sg2_64")
    _, discriminator = load_official(FIXTURES / "sg2_64.pkl")
    assert error(discriminator(want["img"]), want["d_logits"]) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_batch_is_its_pictures_one_by_one(name):
    generator, _ = load_official(FIXTURES / f"{name}.pkl")
    ws = expected(name)["wplus"]
    together = generator.synthesis(ws)
    alone = torch.cat([generator.synthesis(one) for one in ws])  # [num_ws, w_dim]: one code, not a batch
    assert error(together, alone) <= 1e-5


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_configuration_is_read_off_the_tensors(architecture, c_dim):
    generator_config = replace(SMALL, architecture=architecture, c_dim=c_dim, mapping_width=10)
    generator = Generator(generator_config)
    assert infer_generator(generator.state_dict()) == generator_config
    discriminator_config = DiscriminatorConfig(
        16, (8, 8, 6), architecture=architecture, c_dim=c_dim, conditional_dim=5 if c_dim else 0
    )
    discriminator = Discriminator(discriminator_config)
    assert infer_discriminator(discriminator.state_dict()) == discriminator_config
    c = torch.randn(4, c_dim) if c_dim else None
    images = generator(torch.randn(4, 8), c)
    assert images.shape == (4, 3, 16, 16)
    assert discriminator(images, c).shape == (4, 1)
    assert GeneratorConfig.from_dict(generator_config.to_dict()) == generator_config


def test_configurations_that_make_no_sense():
    with pytest.raises(UserError, match="power of two"):
        GeneratorConfig(48, (8, 8, 8))
    with pytest.raises(UserError, match="needs 3 positive"):
        GeneratorConfig(16, (8, 8))
    with pytest.raises(UserError, match="not a StyleGAN2 generator"):
        infer_generator({"conv.weight": torch.zeros(1)})
    assert channel_plan(1024) == (512, 512, 512, 512, 512, 256, 128, 64, 32)
    assert GeneratorConfig(1024, channel_plan(1024)).num_ws == 18


@pytest.mark.parametrize("shape", [(6,), (5, 8), (2, 5, 8), (2, 6, 7), (1, 2, 6, 8)])
def test_wrong_codes_are_refused(shape):
    with pytest.raises(UserError, match=r"expects \[N, 6, 8\]"):
        Generator(SMALL).synthesis(torch.zeros(shape))


@torch.no_grad()
def test_styles_features_and_noise_are_in_reach():
    torch.manual_seed(0)
    generator = Generator(SMALL).eval()
    for module in generator.modules():
        if hasattr(module, "noise_strength"):
            module.noise_strength.fill_(0.3)
    ws = torch.randn(2, 6, 8)
    plain = generator.synthesis(ws)

    # A style is what an `affine` returns; one replaced by the style of another w gives that w's picture.
    other = ws.clone()
    other[:, 1] = torch.randn(2, 8)  # b4.torgb and b8.conv0 share it
    styles = {name: generator.synthesis.get_submodule(name).affine(other[:, 1]) for name in ("b4.torgb", "b8.conv0")}
    hooks = [
        generator.synthesis.get_submodule(name).affine.register_forward_hook(lambda *_, s=style: s)
        for name, style in styles.items()
    ]
    torch.testing.assert_close(generator.synthesis(ws), generator.synthesis(other))
    for hook in hooks:
        hook.remove()

    # Features after a layer can be replaced: with those of another picture the rest follows it.
    features = []
    hook = generator.synthesis.b8.conv1.register_forward_hook(lambda m, i, out: features.append(out))
    generator.synthesis(ws)
    hook.remove()
    hook = generator.synthesis.b8.conv1.register_forward_hook(lambda m, i, out: out * 0 + features[0].flip(0))
    changed = generator.synthesis(ws)
    hook.remove()
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(generator.synthesis(ws), plain)

    # The stored maps passed by name are the stored maps; others are others.
    names = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    maps = {name: generator.synthesis.get_submodule(name).noise_const for name in names}
    torch.testing.assert_close(generator.synthesis(ws, noise=maps), plain)
    none = generator.synthesis(ws, noise="none")
    torch.testing.assert_close(generator.synthesis(ws, noise={name: torch.zeros(1) for name in names}), none)
    assert (none - plain).abs().max() > 1e-3
    drawn = [generator.synthesis(ws, noise="random", generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)


@torch.no_grad()
def test_a_shadow_shares_tensors_and_gives_the_same_bits():
    torch.manual_seed(0)
    generator = Generator(SMALL).eval()
    tensors = [*generator.parameters(), *generator.buffers()]
    shadow = copy.deepcopy(generator, memo={id(t): t for t in tensors})
    assert all(a is b for a, b in zip(tensors, [*shadow.parameters(), *shadow.buffers()], strict=True))
    z = torch.randn(2, 8)
    before = generator(z)
    assert torch.equal(before, shadow(z))
    shadow.synthesis.b8.conv0.affine = torch.nn.Linear(8, 8)
    assert not torch.equal(before, shadow(z))
    assert torch.equal(before, generator(z))


def test_truncation_and_w_avg():
    torch.manual_seed(0)
    mapping = Generator(SMALL).mapping
    z = torch.randn(64, 8)
    w = mapping.map_one(z)
    mapping.track(w, beta=0.75)
    torch.testing.assert_close(mapping.w_avg, 0.25 * w.mean(0))
    centre = mapping(z, truncation_psi=0.0, truncation_cutoff=2)
    torch.testing.assert_close(centre[:, :2], mapping.w_avg.expand(64, 2, 8))
    torch.testing.assert_close(centre[:, 2:], w[:, None].expand(64, 4, 8))


def test_minibatch_deviation_by_hand():
    x = torch.randn(6, 4, 2, 2, dtype=torch.float64)
    y = minibatch_deviation(x, group_size=3, channels=1)
    for n in range(6):
        group = x[[n % 2, n % 2 + 2, n % 2 + 4]]
        value = (group.var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[n, 4], value.expand(2, 2))
    with pytest.raises(UserError, match="groups of 4"):
        minibatch_deviation(x, group_size=4, channels=1)


@torch.no_grad()
def test_safetensors_round_trip(tmp_path):
    generator, discriminator = load_official(FIXTURES / "sg2_64.pkl")
    save_networks(tmp_path / "a.safetensors", generator, discriminator)
    again, discriminator_again = load_networks(tmp_path / "a.safetensors")
    assert again.config == generator.config and discriminator_again.config == discriminator.config
    z = expected("sg2_64")["z"]
    assert torch.equal(generator(z), again(z))
    save_networks(tmp_path / "half.safetensors", generator, dtype=torch.float16)
    half, nothing = load_networks(tmp_path / "half.safetensors")
    assert nothing is None
    assert error(half(z), generator(z)) < 0.01
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read"):
        load_networks(tmp_path / "cut.safetensors")
