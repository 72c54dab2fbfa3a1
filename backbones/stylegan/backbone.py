"""A StyleGAN2 or StyleGAN3 as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.generator import Generator
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.synthesis import AliasFreeLayer
from backbones.stylegan.synthesis import ModulatedConv, Noise
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone, Sampling, backbones
from unified.contract.kinds import Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError
from unified.sampling import override

_STATISTICS_SAMPLES = 10_000  # mapped latents that the mean and deviation of W come from
_STATISTICS_CHUNK = 1_000


@dataclass(frozen=True)
class StyleGANSampling(Sampling):
    """truncation: psi of random samples; 1 is none, 0 the mean picture."""

    truncation: float = 0.7


class StyleGAN(Backbone):
    """A frozen generator and, if there is one, its discriminator: what StyleGAN2 and StyleGAN3 share."""

    label: ClassVar[str] = "gan"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.RENDER,)
    explains_with: ClassVar[frozenset[Kind]] = frozenset({Kind.STYLE})
    default_recipe: ClassVar[str] = "pti"
    sampling: StyleGANSampling = StyleGANSampling()

    def __init__(self, id: str, generator: Generator, discriminator: Discriminator | None = None) -> None:
        super().__init__(id, {"generator": generator})
        self.config = generator.config
        self._discriminator = None if discriminator is None else discriminator.eval().requires_grad_(False)

    @property
    def generator(self) -> Generator:
        network = self.components["generator"]
        assert isinstance(network, Generator)
        return network

    @property
    def resolution(self) -> int:
        return self.config.resolution

    # --- the networks in the field's usual convention -----------------------------------------------------

    @torch.no_grad()
    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim]."""
        ws: Tensor = self.generator.mapping(z, c, truncation_psi=truncation_psi)
        return ws

    @torch.no_grad()
    def synthesis(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """ws [N, num_ws, w_dim] -> pictures [N, channels, resolution, resolution], about -1..1."""
        images: Tensor = self.generator.synthesis(ws, noise=noise)
        return images

    @torch.no_grad()
    def discriminator(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        """Pictures as the generator makes them -> logits [N, 1]. Raises UserError if the file had none."""
        if self._discriminator is None:
            raise UserError(f"{self.id} holds no discriminator: load a training checkpoint that does.")
        logits: Tensor = self._discriminator(images, c)
        return logits

    # --- Renders, Tunable ---------------------------------------------------------------------------------

    def style_shape(self) -> tuple[int, int]:
        return self.config.num_ws, self.config.w_dim

    @cached_property
    def _statistics(self) -> tuple[Tensor, float]:
        """Mean of W and sqrt(E|w - mean|^2) from 10 000 latents (Karras et al. 2020, appendix D)."""
        generator = torch.Generator().manual_seed(123)
        ws = []
        with torch.no_grad():
            for _ in range(_STATISTICS_SAMPLES // _STATISTICS_CHUNK):
                z = torch.randn(_STATISTICS_CHUNK, self.config.z_dim, generator=generator).to(self.dtype)
                c = torch.zeros(len(z), self.config.c_dim, dtype=self.dtype) if self.config.c_dim else None
                ws.append(self.generator.mapping.map_one(z, c))
        w = torch.cat(ws).to(self.dtype)
        mean = w.mean(0)
        return mean, float((w - mean).square().sum(1).mean().sqrt())

    def style_statistics(self) -> tuple[Tensor, float]:
        return self._statistics

    def render(self, view: View, styles: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        generator: Any = view.component("generator")
        maps: Noise = "const" if noise is None else {name: value.unsqueeze(1) for name, value in noise.items()}
        images: Tensor = generator.synthesis(styles, noise=maps)
        return images / 2 + 0.5

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "generator", [name for name, _ in self.generator.named_parameters() if name.startswith("synthesis.")]

    def adaptable(self) -> tuple[str, Sequence[str]]:
        convolutions = [
            name
            for name, module in self.generator.synthesis.named_modules()
            if isinstance(module, ModulatedConv) or (isinstance(module, AliasFreeLayer) and not module.layer.is_rgb)
        ]
        return "generator", [f"synthesis.{name}.weight" for name in convolutions]

    # --- Backbone -----------------------------------------------------------------------------------------

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Squared difference of pixels [B,3,H,W] between the rendered styles and the pictures."""
        image = self._render_rows(view, reference.index)
        return Attempt((image - reference.images).square(), reference, lambda: image)

    def _render_rows(self, view: View, index: Sequence[int]) -> Tensor:
        if "styles" not in view.slots:
            raise UserError(
                "The generator has no style to explain the pictures with: invert in a style space first, such as"
                " space='w > weights'."
            )
        noise = view.slots.get("noise")
        return self.render(view, view.slots["styles"].rows(index), None if noise is None else noise.rows(index))

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        styles = view.slots.get("styles")
        with torch.no_grad():
            if styles is not None:
                count = target.n or styles.code.pictures or 1
                images = self._render_rows(view, range(count))
            else:
                rows = range(target.n or 1)
                z = rng.child("z").normal(rows, (self.config.z_dim,), dtype=self.dtype)
                images = self.render(view, self.mapping(z, truncation_psi=settings.truncation).to(self.dtype))
            return images.clamp(0, 1)


class StyleGAN2(StyleGAN):
    """StyleGAN2: style vectors and noise maps (Karras et al. 2020)."""

    name: ClassVar[str] = "stylegan2"

    def noise_maps(self) -> Mapping[str, Tensor]:
        return {
            name: layer.noise_const
            for name, layer in self.generator.synthesis.named_modules()
            if isinstance(getattr(layer, "noise_const", None), Tensor)
        }

    def noise_shapes(self) -> Mapping[str, tuple[int, int]]:
        return {name: (value.shape[0], value.shape[1]) for name, value in self.noise_maps().items()}


class StyleGAN3(StyleGAN):
    """StyleGAN3-T and -R: style vectors only (Karras et al. 2021)."""

    name: ClassVar[str] = "stylegan3"


def stylegan(id: str, generator: Generator, discriminator: Discriminator | None = None) -> StyleGAN:
    """The backbone that fits the generator."""
    cls = StyleGAN3 if isinstance(generator.config, AliasFreeConfig) else StyleGAN2
    return cls(id, generator, discriminator)


backbones.register(StyleGAN2.name, StyleGAN2)
backbones.register(StyleGAN3.name, StyleGAN3)
