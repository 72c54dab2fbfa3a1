"""The start of StyleGAN2 training: drawing descriptions, and a mapping that draws random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.special import ndtri

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.descriptions import COARSE, FINE, MIDDLE, Describer, Descriptions, level_of_layers
from backbones.stylegan.generator import Generator
from backbones.stylegan.mapping import normalise
from backbones.stylegan.pretrain import pretrain
from backbones.stylegan.staircase import write_mapping
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
    return Generator(GeneratorConfig(32, (16, 16, 16, 16), w_dim=16, z_dim=16, mapping_layers=4, mapping_width=64))


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


def describer() -> Describer:
    torch.manual_seed(1)
    return Describer(4, 16, hidden=32).requires_grad_(False)


def test_mapping_gives_the_codes_of_random_descriptions() -> None:
    """Nearly every z is the code of one description, to rounding; together they have the data's frequencies."""
    data = halves(30)
    data.choices[:, 0] = torch.tensor([0] * 18 + [2] * 12)  # 60 %, never and 40 %
    network, reader = generator(), describer()
    write_mapping(network.mapping, reader, data)
    z = torch.randn(4000, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        w = network.mapping.map_one(z)
    z = normalise(z)
    told = torch.zeros(len(z), 4)
    told[:, 0], told[:, 2], told[:, 3] = (
        z[:, 0] < ndtri(torch.tensor(0.6)),
        z[:, 0] >= ndtri(torch.tensor(0.6)),
        z[:, 1],
    )
    raw = reader.layers(told)
    factor = ((w * raw).sum(1) / raw.square().sum(1)).median()  # for the describer's normalisation
    exact = (w - factor * raw).abs().amax(1) < 1e-3
    assert 0.95 < exact.float().mean() < 1.0  # the others lie on the ramp of the step
    assert torch.allclose(w.mean(0), network.mapping.w_avg, atol=0.05)
    assert w.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.1)


def test_a_mapping_too_small_for_the_descriptions_is_refused() -> None:
    narrow = Generator(GeneratorConfig(32, (16, 16, 16, 16), w_dim=16, z_dim=16, mapping_layers=2))
    with pytest.raises(UserError, match="needs 4 layers, width 32"):
        write_mapping(narrow.mapping, describer(), halves())


def test_descriptions_that_do_not_fit_the_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="expected choices"):
        Descriptions(np.zeros((2, 8, 8, 3), np.uint8), torch.zeros(3, 1).long(), (2,), torch.zeros(2, 0), (0,), ())
