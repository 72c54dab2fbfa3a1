"""What an encoder is built from, and how that is read off its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import Tensor

from unified.errors import UserError

#: Styles up to these numbers come from the coarse, the middle and the fine features (Richardson et al. 2021).
COARSE, MIDDLE = 3, 7


@dataclass(frozen=True)
class StyleEncoderConfig:
    """A network from pictures to style vectors; the defaults are those of pSp for faces at 1024 px.

    inputs: channels, 3 for a picture, 6 for two. resolution: side of the pictures it takes, 16 times a power of two.
    trunk: "ir-se" (improved residual units with squeeze and excitation) or "resnet" (34 layers).
    stem, stages: channels of the first convolution; (channels, units) of the four stages.
    num_ws, w_dim: what the generator takes. style_width: channels in map2style and in the pyramid.
    pyramid: middle and fine styles from finer features (pSp, e4e), or all from the last ones (ReStyle).
    progressive: style i is style 0 plus an offset (e4e), or a style by itself.
    single: no map2style: one w for all layers, from the mean of the last features (HyperStyle's first encoder).
    """

    inputs: int = 3
    resolution: int = 256
    trunk: Literal["ir-se", "resnet"] = "ir-se"
    stem: int = 64
    stages: tuple[tuple[int, int], ...] = ((64, 3), (128, 4), (256, 14), (512, 3))
    num_ws: int = 18
    w_dim: int = 512
    style_width: int = 512
    pyramid: bool = True
    progressive: bool = False
    single: bool = False

    def __post_init__(self) -> None:
        if len(self.stages) != 4:
            raise UserError(f"An encoder has four stages, {len(self.stages)} were given.")
        if self.halvings < 1 or self.resolution != 16 * 2**self.halvings:
            raise UserError(f"An encoder takes pictures of 16 times a power of two a side, not of {self.resolution}.")
        if self.trunk == "resnet" and self.pyramid:
            raise UserError("The residual network of 34 layers has no pyramid; set pyramid to False.")

    @property
    def halvings(self) -> int:
        """How often the last features are halved down to one place."""
        return (self.resolution // 16).bit_length() - 1

    def level(self, style: int) -> int:
        """Which features style i comes from: 0 the last ones, 1 and 2 the finer ones of the pyramid."""
        return 0 if not self.pyramid or style < COARSE else 1 if style < MIDDLE else 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> StyleEncoderConfig:
        """The inverse of `to_dict`, also after JSON. Raises UserError for unknown settings."""
        return StyleEncoderConfig(**known_settings(StyleEncoderConfig, values))


def known_settings(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as the fields of a settings class take them. Raises UserError for settings it does not have."""
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise UserError(f"An encoder has the settings {', '.join(unknown)}, which this version does not know.")
    return {key: _tuples(value) for key, value in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def infer_config(tensors: Mapping[str, Tensor], *, progressive: bool, num_ws: int = 1) -> StyleEncoderConfig:
    """The settings of a stored encoder, whose names are those of `StyleEncoder`.

    progressive, and num_ws of encoders into W: what no shape tells. Raises UserError for tensors of another network.
    """
    resnet = "conv1.weight" in tensors
    try:
        first = tensors["conv1.weight" if resnet else "input_layer.0.weight"]
        styles = _count(tensors, r"styles\.(\d+)\.linear\.weight")
        dense = tensors["styles.0.linear.weight" if styles else "linear.weight"]
        halvings = _count(tensors, r"styles\.0\.convs\.(\d+)\.weight", every=2) if styles else 4
        return StyleEncoderConfig(
            inputs=first.shape[1],
            resolution=16 * 2**halvings,
            trunk="resnet" if resnet else "ir-se",
            stem=first.shape[0],
            stages=infer_stages(tensors, resnet=resnet),
            num_ws=styles or num_ws,
            w_dim=dense.shape[0],
            style_width=dense.shape[1],
            pyramid="latlayer1.weight" in tensors,
            progressive=progressive,
            single=not styles,
        )
    except (KeyError, IndexError) as error:
        raise UserError(
            f"These tensors are no encoder of pSp's kind: {error} is missing. Expected names such as"
            " input_layer.0.weight, body.0.res_layer.1.weight and styles.0.linear.weight."
        ) from None


def _count(tensors: Mapping[str, Tensor], pattern: str, *, every: int = 1) -> int:
    found = sorted(int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name)))
    if found != [every * i for i in range(len(found))]:
        raise KeyError(pattern.replace("\\", ""))
    return len(found)


def infer_stages(tensors: Mapping[str, Tensor], *, resnet: bool) -> tuple[tuple[int, int], ...]:
    """(channels, units) of each stage: one begins where the number of channels changes, and with the first unit."""
    name = "body.{}.conv1.weight" if resnet else "body.{}.res_layer.1.weight"
    stages: list[tuple[int, int]] = []
    for i in range(_count(tensors, name.replace(".", r"\.").replace("{}", r"(\d+)"))):
        outputs, inputs = tensors[name.format(i)].shape[:2]
        if i == 0 or outputs != inputs or f"body.{i}.downsample.0.weight" in tensors:
            stages.append((outputs, 0))
        stages[-1] = (outputs, stages[-1][1] + 1)
    return tuple(stages)
