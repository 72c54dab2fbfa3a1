"""The start of StyleGAN2 training: drawing descriptions, and a mapping that draws random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.descriptions import COARSE, FINE, MIDDLE, Descriptions, Prior, level_of_layers
from backbones.stylegan.generator import Generator
from backbones.stylegan.pretrain import Illustrator, fit_mapping, pretrain
from unified.errors import UserError
from unified.zoo.training import BuildSettings

COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)


def halves(count: int = 64, size: int = 32) -> Descriptions:
    """Pictures whose upper half has one of three colours (told coarsely), the lower a grey level (told finely)."""
    random = torch.Generator().manual_seed(0)
    colour = torch.randint(3, (count,), generator=random)
    grey = torch.rand(count, 1, generator=random)
    images = torch.empty(count, size, size, 3, dtype=torch.uint8)
    images[:, : size // 2] = COLOURS[colour][:, None, None]
    images[:, size // 2 :] = (grey * 255).to(torch.uint8)[:, None, None]
    return Descriptions(images.numpy(), colour[:, None], (3,), grey, (COARSE,), (FINE,))


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(32, (16, 16, 16, 16), w_dim=16, z_dim=16, mapping_layers=2, mapping_width=64))


def no_distance(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).mean((1, 2, 3)) * 0


def test_levels_cover_all_layers_from_coarse_to_fine() -> None:
    assert level_of_layers(10).tolist() == [COARSE] * 3 + [MIDDLE] * 3 + [FINE] * 4


def test_mixed_descriptions_are_true_where_their_level_decides() -> None:
    data = halves()
    indices = torch.arange(20)
    told = data.mixed(indices, torch.Generator().manual_seed(1))
    own = data.entries(indices)
    assert torch.equal(told[:, COARSE, :3], own[:, :3]) and torch.equal(told[:, FINE, 3:], own[:, 3:])
    assert not torch.equal(told[:, FINE, :3], own[:, :3]) and not torch.equal(told[:, COARSE, 3:], own[:, 3:])


def test_the_prior_has_the_frequencies_of_the_data() -> None:
    data = halves(30)
    data.choices[:, 0] = torch.tensor([0] * 18 + [1] * 12)  # 60 %, 40 % and never
    described = Prior(data, 16).read(torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3)))
    share = described[:, :3].mean(0)
    assert share.tolist() == pytest.approx([0.6, 0.4, 0.0], abs=0.02)
    assert described[:, :3].sum(1).eq(1).all()
    assert float(described[:, 3].std()) == pytest.approx(1.0, abs=0.02)


def test_layers_learn_to_decide_their_own_part(tmp_path) -> None:
    """After training, the coarse code alone moves the upper half and the fine code alone the lower."""
    data = halves()
    settings = BuildSettings(out=tmp_path, work=tmp_path / "work")
    network = pretrain(generator(), data, settings, steps=250, batch=8, perceptual=no_distance, fit=False)
    own = data.entries(torch.arange(8))
    with torch.no_grad():
        made = network(own[:, None].expand(-1, 3, -1), torch.zeros(8, 16))
        target = torch.from_numpy(data.images[:8].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        assert (made - target)[:, :, :16].abs().mean() < 0.25
        told = own[:, None].repeat(1, 3, 1)
        told[:, COARSE, :3] = own[:, :3].roll(1, dims=1)  # the next colour, told to the coarse layers alone
        moved = (network(told, torch.zeros(8, 16)) - made).abs().mean((0, 1, 3))
    assert moved[:16].mean() > 3 * moved[16:].mean()


def test_mapping_draws_random_descriptions() -> None:
    network = Illustrator(generator(), halves().width).requires_grad_(False)
    left = fit_mapping(network, halves(), seed=0, steps=1500, batch=128)
    assert left < 0.55  # of the variance; the mean alone leaves all of it
    mapping = network.generator.mapping
    with torch.no_grad():
        w = mapping.map_one(torch.randn(5000, 16, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(w.mean(0), mapping.w_avg, atol=0.15)


def test_a_latent_too_narrow_for_the_descriptions_is_refused() -> None:
    with pytest.raises(UserError, match="z_dim of at least 4"):
        Prior(halves(), 3)


def test_descriptions_that_do_not_fit_the_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="expected choices"):
        Descriptions(np.zeros((2, 8, 8, 3), np.uint8), torch.zeros(3, 1).long(), (2,), torch.zeros(2, 0), (0,), ())
