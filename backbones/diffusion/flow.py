"""What the rectified flows share (Liu et al. 2023; Esser et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.diffusion.autoencoder import check_size, decoded, encoded
from backbones.diffusion.backbone import DiffusionBackbone
from unified.contract.abilities import Level
from unified.contract.view import View


class FlowDiffusion(DiffusionBackbone):
    """x = (1 - sigma) x0 + sigma eps; the network predicts eps - x0. Latents are (z - shift) * scale.

    time_scale: what the network calls the time of pure noise. training_shift: how far the training noise is
    moved towards pure noise, 1 for not at all (Esser et al. 2024, equation 23).
    """

    time_scale: ClassVar[float] = 1.0

    def __init__(self, id: str, components: Mapping[str, nn.Module], vae: Any, *, training_shift: float = 1.0) -> None:
        super().__init__(id, {**components, "vae": vae})
        self.vae_scale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling: float = vae.config.scaling_factor
        self.shift: float = vae.config.shift_factor or 0.0
        self.training_shift = training_shift

    def level_at(self, s: float) -> Level:
        return Level(s * self.time_scale, 1.0 - s, s)

    def random_levels(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logit-normal sigmas (Esser et al. 2024, section 3.1), shifted."""
        sigma = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).sigmoid()
        sigma = shifted(sigma, self.training_shift)
        return (sigma * self.time_scale).float(), 1 - sigma, sigma

    def encode(self, view: View, images: Tensor) -> Tensor:
        check_size(images, self.size_step)
        latents = encoded(view.component("vae"), images.to(self.dtype) * 2 - 1)
        return (latents - self.shift) * self.scaling

    def decode(self, view: View, latents: Tensor) -> Tensor:
        images = decoded(view.component("vae"), latents / self.scaling + self.shift)
        return images / 2 + 0.5

    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps - x0

    def split(self, output: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x = (1 - s) x0 + s eps and output = eps - x0, so x0 = x - s output and eps = x + (1 - s) output."""
        return x - s * output, x + (1 - s) * output


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """shift s / (1 + (shift - 1) s) (Esser et al. 2024, equation 23)."""
    return sigma if shift == 1.0 else shift * sigma / (1 + (shift - 1) * sigma)
