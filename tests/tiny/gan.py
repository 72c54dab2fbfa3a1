"""Random StyleGANs small enough for unit tests."""

from __future__ import annotations

import functools

import torch

from backbones.stylegan.backbone import StyleGAN2, StyleGAN3
from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.generator import Generator
from backbones.stylegan.stylegan3.config import AliasFreeConfig


def stylegan(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> StyleGAN2:
    """32 px, width 16, with noise that shows."""
    torch.manual_seed(seed)
    config = GeneratorConfig(resolution=32, channels=(16, 16, 8, 8), z_dim=16, w_dim=16, mapping_layers=2)
    generator = Generator(config).to(dtype)
    for name, value in generator.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(0.1)
    return StyleGAN2("tiny/stylegan", generator)


@functools.cache
def stylegan3() -> StyleGAN3:
    """32 px, width 16, no noise; features have margins. Shared between tests: it is never written."""
    torch.manual_seed(0)
    config = AliasFreeConfig(resolution=32, channels=(8, 8, 6, 6), z_dim=16, w_dim=16, critical_layers=1)
    return StyleGAN3("tiny/stylegan3", Generator(config))
