"""The start of StyleGAN2 training."""

from __future__ import annotations

import numpy as np
import torch

from backbones.stylegan import pretrain as module
from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.generator import Generator
from backbones.stylegan.mapping import normalise
from backbones.stylegan.pretrain import Autoencoder, code_statistics, fit_mapping, pretrain
from unified.zoo.training import BuildSettings


def pictures(count: int = 64) -> np.ndarray:
    """Two-coloured halves: a code of a few numbers."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (count, 2, 3), dtype=np.uint8)
    images = np.empty((count, 32, 32, 3), np.uint8)
    images[:, :16] = colours[:, None, None, 0]
    images[:, 16:] = colours[:, None, None, 1]
    return images


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(32, (16, 16, 16, 16), w_dim=16, z_dim=16, mapping_layers=2, mapping_width=64))


def test_reconstructs_better_with_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "fit_mapping", lambda *_, **__: 0.0)
    images = pictures()
    target = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    def error(network: Autoencoder) -> float:
        with torch.no_grad():
            return float((network.decode(network.encoder(target)[0]) - target).abs().mean())

    few = BuildSettings(out=tmp_path, work=tmp_path / "few")
    many = BuildSettings(out=tmp_path, work=tmp_path / "many")
    early = pretrain(generator(), images, few, steps=6, batch=8)
    late = pretrain(generator(), images, many, steps=60, batch=8)
    assert error(late) < 0.8 * error(early)


def test_mapping_is_fitted_to_the_codes_gaussian() -> None:
    """Mapped random latents have the mean and covariance of the encoder's codes."""
    images = pictures(200)
    network = Autoencoder(generator()).requires_grad_(False)
    with torch.no_grad():  # an encoder whose codes have a covariance worth the name
        network.encoder.head.weight[:16].mul_(30)
    left = fit_mapping(network, images, seed=0, steps=1500, batch=128)
    assert left < 0.35  # of the variance; a fresh mapping leaves more than all of it
    mean, covariance = code_statistics(network, images)
    with torch.no_grad():
        z = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(1))
        w = network.generator.mapping.map_one(z)
    assert torch.allclose(w.mean(0), mean, atol=0.25 * float(covariance.diagonal().mean().sqrt()))
    gap = (w.T.cov() - covariance).norm() / covariance.norm()
    assert gap < 0.45
    assert torch.allclose(network.generator.mapping.w_avg, mean)
    assert normalise(z).square().mean(1).allclose(torch.ones(len(z)), atol=1e-4)
