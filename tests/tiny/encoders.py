"""Random encoders into the tiny StyleGAN, and files like the published ones that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.encoders.inverter import StyleInverter
from backbones.stylegan.formats.rosinality import generator_to_rosinality
from tests.tiny.gan import stylegan

SMALL = StyleEncoderConfig(
    resolution=32, stem=4, stages=((4, 1), (6, 2), (8, 3), (10, 1)), num_ws=8, w_dim=16, style_width=12
)
CLASSES = {
    "psp": "GradualStyleEncoder",
    "e4e": "Encoder4Editing",
    "restyle-psp": "BackboneEncoder",
    "restyle-e4e": "ProgressiveBackboneEncoder",
}


def config_of(name: str, **changes: Any) -> StyleEncoderConfig:
    restyle = name.startswith("restyle")
    settings = {"inputs": 6 if restyle else 3, "pyramid": not restyle, "progressive": name.endswith("e4e")}
    return StyleEncoderConfig(**{**SMALL.to_dict(), **settings, **changes})


def style_inverter(name: str, **changes: Any) -> StyleInverter:
    """With statistics of batches and a mean w that show."""
    torch.manual_seed(7)
    inverter = StyleInverter(config_of(name, **changes), iterations=3 if name.startswith("restyle") else 1)
    for key, value in inverter.state_dict().items():
        if "running_" in key:
            value.copy_(torch.rand_like(value) + 0.5)
    inverter.latent_avg.copy_(0.3 * torch.randn_like(inverter.latent_avg))
    return inverter.eval().requires_grad_(False)


def published(path: Path, name: str, inverter: StyleInverter, **options: Any) -> Path:
    """A file as the authors' training writes it, with the tiny generator as decoder."""
    named = generator_to_rosinality(stylegan().generator.state_dict(), stylegan().generator.config.sizes)
    named.pop("latent_avg")
    state = {f"decoder.{key}": value for key, value in named.items()}
    state |= {f"encoder.{key}": value for key, value in inverter.encoder.state_dict().items()}
    opts = {"encoder_type": CLASSES[name], "start_from_latent_avg": True, "n_iters_per_batch": 3, **options}
    torch.save({"state_dict": state, "opts": opts, "latent_avg": inverter.latent_avg.clone()}, path)
    return path
