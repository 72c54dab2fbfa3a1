"""What a StyleGAN2 network looks like, as data, and how to read it off the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from torch import Tensor

from unified.errors import UserError

Architecture = Literal["skip", "orig", "resnet"]

# Far beyond any use, since a file may give these numbers.
LARGEST = 2**16
DEEPEST_MAPPING = 64


def channel_plan(resolution: int, *, base: int = 32768, maximum: int = 512) -> tuple[int, ...]:
    """Feature channels at 4, 8, ..., resolution: min(base / size, maximum), as in the official networks."""
    return tuple(min(base // size, maximum) for size in sizes(resolution))


def sizes(resolution: int) -> tuple[int, ...]:
    """(4, 8, ..., resolution). Raises UserError unless resolution is a power of two of at least 8."""
    if not 8 <= resolution <= LARGEST or resolution & (resolution - 1):
        given = str(resolution)[:20]
        raise UserError(f"resolution {given}: StyleGAN2 needs a power of two of at least 8, such as 64 or 1024.")
    return tuple(2**i for i in range(2, resolution.bit_length()))


def check_settings(*, mapping_layers: object, learning_rate_multiplier: object, conv_clamp: object) -> None:
    """Raises UserError for settings that no network has and no comparison of shapes would find."""
    if type(mapping_layers) is not int or not 1 <= mapping_layers <= DEEPEST_MAPPING:
        raise UserError(f"mapping_layers {str(mapping_layers)[:20]}: expected a number from 1 to {DEEPEST_MAPPING}.")
    numbers = {"learning_rate_multiplier": learning_rate_multiplier, "conv_clamp": conv_clamp}
    for name, value in numbers.items():
        if type(value) not in (int, float) and not (name == "conv_clamp" and value is None):
            raise UserError(f"{name} {str(value)[:20]!r}: expected a number.")


@dataclass(frozen=True)
class StoredConfig:
    """A configuration that is stored in a file as plain JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the inverse of :meth:`from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"The network configuration {dict(values)} does not fit {cls.__name__}: {error}.") from None


@dataclass(frozen=True)
class _Config(StoredConfig):
    resolution: int
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))
        expected = sizes(self.resolution)
        if len(self.channels) != len(expected) or min(self.channels) < 1:
            raise UserError(
                f"channels {self.channels}: resolution {self.resolution} needs {len(expected)} positive "
                f"numbers, for the sizes {expected}."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return sizes(self.resolution)

    def channels_at(self, size: int) -> int:
        return self.channels[size.bit_length() - 3]


@dataclass(frozen=True)
class GeneratorConfig(_Config):
    """A StyleGAN2 generator.

    channels: feature channels at 4, 8, ..., resolution (see :func:`channel_plan`).
    c_dim: length of the condition vector, 0 for none. mapping_width: hidden width, w_dim when None.
    architecture: how RGB is formed: "skip" sums RGB of all sizes, "resnet" has residual blocks and one
    RGB layer at the end, "orig" only the latter.
    conv_clamp: features are clamped to +-conv_clamp; None: not clamped.
    """

    w_dim: int = 512
    z_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 8
    mapping_width: int | None = None
    embed_width: int | None = None
    learning_rate_multiplier: float = 0.01
    architecture: Architecture = "skip"
    image_channels: int = 3
    conv_clamp: float | None = None
    use_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(
            mapping_layers=self.mapping_layers,
            learning_rate_multiplier=self.learning_rate_multiplier,
            conv_clamp=self.conv_clamp,
        )

    @property
    def num_ws(self) -> int:
        """Style inputs of the synthesis network: one per convolution, and the last RGB layer's."""
        return 2 * len(self.channels)


@dataclass(frozen=True)
class DiscriminatorConfig(_Config):
    """A StyleGAN2 discriminator; fields as in :class:`GeneratorConfig`.

    conditional_dim: length of the projection of the condition, when c_dim > 0.
    group_size: pictures per group of the minibatch standard deviation; None: the whole batch.
    """

    c_dim: int = 0
    conditional_dim: int = 0
    mapping_layers: int = 8
    mapping_width: int | None = None
    embed_width: int | None = None
    learning_rate_multiplier: float = 0.01
    architecture: Architecture = "resnet"
    image_channels: int = 3
    conv_clamp: float | None = None
    group_size: int | None = 4
    group_channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(
            mapping_layers=self.mapping_layers,
            learning_rate_multiplier=self.learning_rate_multiplier,
            conv_clamp=self.conv_clamp,
        )


def infer_generator(tensors: Mapping[str, Tensor], **known: Any) -> GeneratorConfig:
    """Read the configuration off official parameter names and shapes.

    known: fields no shape tells (conv_clamp, learning_rate_multiplier). Raises UserError for tensors
    that are no StyleGAN2 generator's.
    """
    try:
        size_list = _block_sizes(tensors, "synthesis.b")
        top = max(size_list)
        rgb = tensors[f"synthesis.b{top}.torgb.weight"]
        if "synthesis.b8.skip.weight" in tensors:
            architecture = "resnet"
        else:
            architecture = "skip" if "synthesis.b4.torgb.weight" in tensors else "orig"
        w_dim = tensors["synthesis.b4.conv1.affine.weight"].shape[1]
        layers, entry, width, c_dim, embed = _mapping(tensors)
        return GeneratorConfig(
            resolution=top,
            channels=tuple(tensors[f"synthesis.b{size}.conv1.weight"].shape[0] for size in size_list),
            w_dim=w_dim,
            z_dim=entry - embed,
            c_dim=c_dim,
            mapping_layers=layers,
            mapping_width=None if width == w_dim else width,
            embed_width=None if embed in (0, w_dim) else embed,
            architecture=architecture,  # type: ignore[arg-type]
            image_channels=rgb.shape[0],
            use_noise="synthesis.b4.conv1.noise_strength" in tensors,
            **known,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"These tensors are not a StyleGAN2 generator's: {error} is missing or has another shape. "
            "Expected official names such as synthesis.b4.const and mapping.fc0.weight."
        ) from None


def infer_discriminator(tensors: Mapping[str, Tensor], **known: Any) -> DiscriminatorConfig:
    """As :func:`infer_generator`; `known` may also hold group_size."""
    try:
        size_list = _block_sizes(tensors, "b")
        top = max(size_list)
        if f"b{top}.skip.weight" in tensors:
            architecture = "resnet"
        else:
            architecture = "skip" if "b4.fromrgb.weight" in tensors else "orig"
        last = tensors["b4.conv.weight"].shape
        layers, _, width, c_dim, embed = _mapping(tensors)
        conditional = tensors["b4.out.weight"].shape[0] if c_dim else 0
        return DiscriminatorConfig(
            resolution=top,
            channels=(last[0], *(tensors[f"b{size}.conv0.weight"].shape[0] for size in size_list[1:])),
            c_dim=c_dim,
            conditional_dim=conditional,
            mapping_layers=layers,
            mapping_width=None if width == conditional else width,
            embed_width=None if embed in (0, conditional) else embed,
            architecture=architecture,  # type: ignore[arg-type]
            image_channels=tensors[f"b{top}.fromrgb.weight"].shape[1],
            group_channels=last[1] - last[0],
            **known,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"These tensors are not a StyleGAN2 discriminator's: {error} is missing or has another shape. "
            "Expected official names such as b4.conv.weight and b8.conv0.weight."
        ) from None


def _block_sizes(names: Iterable[str], prefix: str) -> list[int]:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return sorted({int(match[1]) for name in names if (match := pattern.match(name))})


def _mapping(tensors: Mapping[str, Tensor]) -> tuple[int, int, int, int, int]:
    """(layers, input width, hidden width, c_dim, embedding width) of `mapping.*`; zeros without one."""
    layers = sum(1 for name in tensors if re.fullmatch(r"mapping\.fc\d+\.weight", name))
    embed = tensors.get("mapping.embed.weight")
    c_dim, embed_width = (0, 0) if embed is None else (embed.shape[1], embed.shape[0])
    if layers == 0:
        return 8, 0, 0, c_dim, embed_width
    width, entry = tensors["mapping.fc0.weight"].shape
    return layers, entry, width, c_dim, embed_width
