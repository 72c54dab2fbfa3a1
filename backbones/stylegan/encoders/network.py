"""From pictures to style vectors: the networks of pSp, e4e and ReStyle."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.stylegan.encoders.blocks import MapToStyle, Trunk
from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.layers import Dense


class StyleEncoder(Trunk):
    """Pictures [N, inputs, R, R] in -1..1 -> offsets of w from the mean w [N, num_ws, w_dim].

    As the configuration says, the network of

    - pSp (Richardson et al. 2021, section 3.1): a pyramid of features (Lin et al. 2017), from which map2style
      networks take styles 0-2 (coarsest features), 3-6 and 7 on (finest);
    - e4e (Tov et al. 2021, section 4): the same, with w_i = w_0 + offset_i (`progressive`). While it is trained, only
      the first `unlocked` offsets are added;
    - ReStyle (Alaluf et al. 2021, section 3.2): two pictures as input, all styles from the coarsest features;
    - HyperStyle's first encoder (Alaluf et al. 2022, section 3.1): one w for all layers (`single`).
    """

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__(config)
        self.config = config
        channels = [width for width, _ in config.stages]
        width, last = config.style_width, channels[-1]
        self.unlocked = config.num_ws
        if config.single:
            self.linear = Dense(last, config.w_dim)
            return
        if config.pyramid:
            self.latlayer1 = nn.Conv2d(channels[-2], last, 1)
            self.latlayer2 = nn.Conv2d(channels[-3], last, 1)
        self.styles = nn.ModuleList(
            MapToStyle(last, width, config.w_dim, config.halvings + config.level(i)) for i in range(config.num_ws)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        config = self.config
        found = self.features(pictures)
        coarse = found[-1]
        if config.single:
            one: Tensor = self.linear(coarse.mean((2, 3)))
            return one.unsqueeze(1).expand(-1, config.num_ws, -1)
        levels = pyramid(found, self.latlayer1, self.latlayer2) if config.pyramid else [coarse]
        if not config.progressive:
            return torch.stack([style(levels[config.level(i)]) for i, style in enumerate(self.styles)], dim=1)
        base = self.styles[0](coarse)
        offsets = [
            style(levels[config.level(i)]) if 0 < i <= self.unlocked else torch.zeros_like(base)
            for i, style in enumerate(self.styles)
        ]
        return base.unsqueeze(1) + torch.stack(offsets, dim=1)


def pyramid(stages: list[Tensor], first: nn.Module, second: nn.Module) -> list[Tensor]:
    """The last three stages, the coarsest first, each with what is coarser added to it (Lin et al. 2017, section 3).

    first, second: what widens the second-last and the third-last stage to the channels of the last.
    """
    levels = [stages[-1]]
    levels.append(_onto(levels[0], first(stages[-2])))
    levels.append(_onto(levels[1], second(stages[-3])))
    return levels


def _onto(coarse: Tensor, fine: Tensor) -> Tensor:
    """The coarse features at the size of the fine ones, plus these."""
    return functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=True) + fine


class LatentDiscriminator(nn.Module):
    """Whether w [N, w_dim] is from the mapping network: logits [N, 1] (Tov et al. 2021, section 4.2; Nitzan et al.
    2020). Four dense layers with leaky ReLU between them."""

    def __init__(self, width: int, layers: int = 4) -> None:
        super().__init__()
        hidden = [m for _ in range(layers - 1) for m in (nn.Linear(width, width), nn.LeakyReLU(0.2))]
        self.mlp = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, w: Tensor) -> Tensor:
        logits: Tensor = self.mlp(w)
        return logits
