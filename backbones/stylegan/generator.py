"""StyleGAN2 and StyleGAN3 generator: mapping and synthesis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.mapping import Mapping
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.synthesis import AliasFreeSynthesis
from backbones.stylegan.synthesis import Noise, Synthesis


class Generator(nn.Module):
    """z -> `mapping` -> ws -> `synthesis` -> picture. Parameter names are those of the official networks.

    The configuration's type decides between the two synthesis networks.
    """

    synthesis: Synthesis | AliasFreeSynthesis

    def __init__(self, config: GeneratorConfig | AliasFreeConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(
            z_dim=config.z_dim,
            c_dim=config.c_dim,
            w_dim=config.w_dim,
            num_ws=config.num_ws,
            layers=config.mapping_layers,
            width=config.mapping_width,
            embed_width=config.embed_width,
            multiplier=config.learning_rate_multiplier,
        )
        if isinstance(config, AliasFreeConfig):
            self.synthesis = AliasFreeSynthesis(config)
        else:
            self.synthesis = Synthesis(config)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise: Noise = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> [N, image_channels, resolution, resolution], about -1..1."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise=noise, generator=generator)
