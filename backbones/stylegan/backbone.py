"""A StyleGAN2 or StyleGAN3 as a backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from backbones.stylegan import anatomy, inside
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.generator import Generator
from backbones.stylegan.ops import native
from backbones.stylegan.runtime import Runtime
from backbones.stylegan.statistics import Axes, map_latents, mapped
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.synthesis import AliasFreeLayer
from backbones.stylegan.synthesis import ModulatedConv, Noise
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone, Sampling, backbones
from unified.contract.kinds import Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import shadow
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError
from unified.sampling import override

_STATISTICS_SAMPLES = 10_000  # mapped latents that the mean and deviation of W come from
_AXES_SAMPLES = 50_000  # and its principal axes, which have many more numbers


#: What spaces set in a view of these backbones, and the rows of the pictures are taken from.
_SLOTS = ("styles", "channels", "noise", "features")


@dataclass(frozen=True)
class StyleGANSampling(Sampling):
    """truncation: psi of random samples; 1 is none, 0 the mean picture."""

    truncation: float = 0.7


class StyleGAN(Backbone):
    """A frozen generator and, if there is one, its discriminator: what StyleGAN2 and StyleGAN3 share.

    CPU kernels are loaded if they were built before, never compiled here.
    """

    label: ClassVar[str] = "gan"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.RENDER,)
    explains_with: ClassVar[frozenset[Kind]] = frozenset({Kind.STYLE})
    default_recipe: ClassVar[str] = "pti"
    sampling: StyleGANSampling = StyleGANSampling()

    def __init__(self, id: str, generator: Generator, discriminator: Discriminator | None = None) -> None:
        native.load_built("cpu")
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

    @property
    def runtime(self) -> Runtime:
        return self.generator.synthesis.runtime

    def with_runtime(self, runtime: Runtime) -> Self:
        """This backbone computing otherwise: another object, the same weights."""
        generator = shadow(self.generator)
        assert isinstance(generator, Generator)
        generator.synthesis.runtime = runtime
        other = type(self)(self.id, generator, self._discriminator)
        other.category = self.category
        return other

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

    # --- Renders, Maps, Tunable ---------------------------------------------------------------------------------

    def style_shape(self) -> tuple[int, int]:
        return self.config.num_ws, self.config.w_dim

    @cached_property
    def _statistics(self) -> tuple[Tensor, float]:
        """Mean of W and sqrt(E|w - mean|^2) from 10 000 latents (Karras et al. 2020, appendix D)."""
        w = torch.cat(list(mapped(self.generator, _STATISTICS_SAMPLES, dtype=self.dtype)))
        mean = w.mean(0)
        return mean, float((w - mean).square().sum(1).mean().sqrt())

    @cached_property
    def _axes(self) -> Axes:
        return Axes.of(mapped(self.generator, _AXES_SAMPLES, dtype=self.dtype))

    def style_statistics(self) -> tuple[Tensor, float]:
        return self._statistics

    def render(self, view: View, styles: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        generator: Any = view.component("generator")
        maps: Noise = "const" if noise is None else {name: value.unsqueeze(1) for name, value in noise.items()}
        images: Tensor = generator.synthesis(styles, noise=maps)
        return images / 2 + 0.5

    def latent_width(self) -> int:
        return self.config.z_dim

    def map_latents(self, view: View, latents: Tensor) -> Tensor:
        """Conditional networks get the condition 0, as for the statistics."""
        return map_latents(view.component("generator"), latents).to(latents.dtype)

    def whitened(self, styles: Tensor) -> Tensor:
        return self._axes.whitened(styles)

    def unwhitened(self, whitened: Tensor) -> Tensor:
        return self._axes.unwhitened(whitened)

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "generator", [name for name, _ in self.generator.named_parameters() if name.startswith("synthesis.")]

    def adaptable(self) -> tuple[str, Sequence[str]]:
        convolutions = [
            name
            for name, module in self.generator.synthesis.named_modules()
            if isinstance(module, ModulatedConv) or (isinstance(module, AliasFreeLayer) and not module.layer.is_rgb)
        ]
        return "generator", [f"synthesis.{name}.weight" for name in convolutions]

    # --- Styled, Featured ---------------------------------------------------------------------------------

    @abstractmethod
    def _modulated(self) -> Sequence[anatomy.Modulated]:
        """The modulated layers in the order of synthesis."""

    @cached_property
    @abstractmethod
    def _places(self) -> Mapping[str, anatomy.Place]:
        """Where features are, in the order of synthesis, by name."""

    def style_channels(self) -> Mapping[str, int]:
        return {layer.name: layer.channels for layer in self._modulated()}

    def channels_of(self, view: View, styles: Tensor) -> Mapping[str, Tensor]:
        network: Any = view.component("generator")
        return {
            layer.name: network.synthesis.get_submodule(f"{layer.name}.affine")(styles[:, layer.style])
            for layer in self._modulated()
        }

    def render_channels(
        self, view: View, channels: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        count = len(next(iter(channels.values())))
        with self._changed(view, inside.channel_changes(channels)):
            return self.render(view, self._mean_styles(count), noise)

    def feature_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        return {name: place.shape for name, place in self._places.items()}

    def feature_extents(self) -> Mapping[str, float]:
        return {name: place.extent for name, place in self._places.items()}

    def features_of(self, view: View, index: Sequence[int]) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        self._render_rows(view, index, inside.recorders(self._places, found))
        return {name: found[name] for name in self._places}

    def _mean_styles(self, count: int) -> Tensor:
        """Styles [count, num_ws, w_dim] for where all modulations are set: without effect on the picture."""
        return self._statistics[0].expand(count, self.config.num_ws, -1)

    @contextmanager
    def _changed(self, view: View, changes: inside.Changes) -> Iterator[None]:
        if not changes:
            yield
            return
        network: Any = view.writable("generator")
        with inside.changed(network.synthesis, changes):
            yield

    # --- Backbone -----------------------------------------------------------------------------------------

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Squared difference of pixels [B,3,H,W] between the rendered styles and the pictures."""
        image = self._render_rows(view, reference.index)
        return Attempt((image - reference.images).square(), reference, lambda: image)

    def _render_rows(self, view: View, index: Sequence[int], more: inside.Changes | None = None) -> Tensor:
        """The view's pictures of these numbers. more: further changes inside the network, after the view's own."""
        found = {key: view.slots[key].rows(index) for key in _SLOTS if key in view.slots}
        if "channels" in found:
            styles = self._mean_styles(len(index))
        elif "styles" in found:
            styles = found["styles"]
        else:
            raise UserError(
                "The generator has no style to explain the pictures with: invert in a style space first, such as"
                " space='w > weights'."
            )
        changes = inside.merged(
            inside.channel_changes(found.get("channels", {})),
            inside.feature_changes(self._places, found.get("features", {})),
            more or {},
        )
        with self._changed(view, changes):
            return self.render(view, styles, found.get("noise"))

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        styles = view.slots.get("styles", view.slots.get("channels"))
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

    def _modulated(self) -> Sequence[anatomy.Modulated]:
        return anatomy.stylegan2_modulated(self.generator.synthesis)

    @cached_property
    def _places(self) -> Mapping[str, anatomy.Place]:
        return anatomy.stylegan2_places(self.generator.synthesis)

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

    def _modulated(self) -> Sequence[anatomy.Modulated]:
        return anatomy.stylegan3_modulated(self.generator.synthesis)

    @cached_property
    def _places(self) -> Mapping[str, anatomy.Place]:
        return anatomy.stylegan3_places(self.generator.synthesis)


def stylegan(id: str, generator: Generator, discriminator: Discriminator | None = None) -> StyleGAN:
    """The backbone that fits the generator."""
    cls = StyleGAN3 if isinstance(generator.config, AliasFreeConfig) else StyleGAN2
    return cls(id, generator, discriminator)


backbones.register(StyleGAN2.name, StyleGAN2)
backbones.register(StyleGAN3.name, StyleGAN3)
