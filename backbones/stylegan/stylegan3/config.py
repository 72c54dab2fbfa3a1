"""What a StyleGAN3 generator looks like, as data, and how to read it off the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from backbones.stylegan.config import LARGEST, StoredConfig, check_settings
from unified.errors import UserError


@dataclass(frozen=True)
class AliasFreeConfig(StoredConfig):
    """A StyleGAN3 generator (Karras et al. 2021): configuration T by default, R with `kernel_size=1` and
    `radial_filters=True`.

    resolution: a power of two of at least 16.
    channels: feature channels of layers L0, L1, ...; the RGB layer follows them (see `channel_plan`).
    kernel_size: of the convolutions. radial_filters: downsampling filters with radial symmetry, except in
    the last `critical_layers` + 1 layers, which are sampled critically (no room between cutoff and Nyquist).
    first_cutoff, first_stopband: frequencies of the first layer, in cycles per picture.
    last_stopband_ratio: stopband / cutoff of the last layer. margin: pixels computed beyond each border.
    filter_size: taps of a resampling filter per unit of its factor. upsampling: of the sampling rate around
    the nonlinearity. conv_clamp: features are clamped to +-conv_clamp; None: not clamped.
    output_scale: the RGB layer's values times this are the picture.
    Other fields as in :class:`~backbones.stylegan.config.GeneratorConfig`.
    """

    resolution: int
    channels: tuple[int, ...]
    w_dim: int = 512
    z_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 2
    mapping_width: int | None = None
    embed_width: int | None = None
    learning_rate_multiplier: float = 0.01
    image_channels: int = 3
    kernel_size: int = 3
    radial_filters: bool = False
    critical_layers: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_ratio: float = 2.0**0.3
    margin: int = 10
    filter_size: int = 6
    upsampling: int = 2
    conv_clamp: float | None = 256.0
    output_scale: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))
        check_settings(
            mapping_layers=self.mapping_layers,
            learning_rate_multiplier=self.learning_rate_multiplier,
            conv_clamp=self.conv_clamp,
        )
        if not 16 <= self.resolution <= LARGEST or self.resolution & (self.resolution - 1):
            raise UserError(
                f"resolution {str(self.resolution)[:20]}: StyleGAN3 needs a power of two of at least 16, such as 256."
            )
        if len(self.channels) <= self.critical_layers or min(self.channels) < 1:
            raise UserError(
                f"channels {self.channels}: expected positive numbers for more than {self.critical_layers} "
                "layers (14 in the official networks)."
            )

        # Bounds far beyond any use: filters are designed from these numbers, which a file may give.
        usable = (
            1 <= self.first_cutoff < self.first_stopband <= self.resolution / 2
            and 1 < self.last_stopband_ratio <= 4
            and 0 <= self.margin <= 100
            and 1 <= self.filter_size <= 32
            and 1 <= self.upsampling <= 8
            and self.critical_layers >= 0
            and self.kernel_size % 2 == 1
        )
        if not usable:
            raise UserError(
                "The frequencies, margin, filter size or kernel size of the StyleGAN3 configuration make no sense: "
                f"{self.to_dict()}."
            )

    @property
    def num_ws(self) -> int:
        """Style inputs of the synthesis network: the input layer's, one per layer, the RGB layer's."""
        return len(self.channels) + 2


def is_alias_free(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a StyleGAN3 generator, by name."""
    return "synthesis.input.freqs" in tensors


def infer_alias_free(tensors: Mapping[str, Tensor], **known: Any) -> AliasFreeConfig:
    """Read the configuration off official parameter names and shapes.

    known: fields no tensor tells (margin, first_cutoff, conv_clamp, ...) where they are not the default.
    Raises UserError for tensors that are no StyleGAN3 generator's.
    """
    try:
        layers = _layers(tensors)
        first, rgb = layers[0], layers[-1]
        fully_connected = [name for name in tensors if re.fullmatch(r"mapping\.fc\d+\.weight", name)]
        width, entry = tensors["mapping.fc0.weight"].shape
        w_dim = tensors["synthesis.input.affine.weight"].shape[1]
        embed = tensors.get("mapping.embed.weight")
        embed_width = 0 if embed is None else embed.shape[0]
        return AliasFreeConfig(
            resolution=int(rgb.split("_")[1]),
            channels=tuple(tensors[f"synthesis.{name}.weight"].shape[0] for name in layers[:-1]),
            w_dim=w_dim,
            z_dim=entry - embed_width,
            c_dim=0 if embed is None else embed.shape[1],
            mapping_layers=len(fully_connected),
            mapping_width=None if width == w_dim else width,
            embed_width=None if embed_width in (0, w_dim) else embed_width,
            image_channels=tensors[f"synthesis.{rgb}.weight"].shape[0],
            kernel_size=tensors[f"synthesis.{first}.weight"].shape[-1],
            radial_filters=tensors[f"synthesis.{first}.down_filter"].ndim == 2,
            **known,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"These tensors are not a StyleGAN3 generator's: {error} is missing or has another shape. "
            "Expected official names such as synthesis.input.freqs and synthesis.L0_36_512.weight."
        ) from None


def _layers(tensors: Mapping[str, Tensor]) -> list[str]:
    """Layer names such as L0_36_512, in order."""
    pattern = re.compile(r"synthesis\.(L(\d+)_\d+_\d+)\.weight")
    found = {int(match[2]): match[1] for name in tensors if (match := pattern.fullmatch(name))}
    return [found[i] for i in range(max(len(found), 2))]
