"""StyleGAN2 discriminator (Karras et al. 2020, figure 7).

The minibatch deviation is of Karras et al. 2018, section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backbones.stylegan.config import Architecture, DiscriminatorConfig
from backbones.stylegan.layers import Conv, Dense
from backbones.stylegan.mapping import Mapping
from backbones.stylegan.ops import downsample2d, make_filter
from unified.errors import UserError


class DiscriminatorBlock(nn.Module):
    """All layers of one size. (features or None, picture or None) -> the same at half the size."""

    resample_filter: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        image_channels: int,
        architecture: Architecture,
        is_first: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("resample_filter", make_filter())
        self.fromrgb = (
            Conv(image_channels, channels, kernel_size=1, act="lrelu", conv_clamp=conv_clamp)
            if is_first or architecture == "skip"
            else None
        )
        self.conv0 = Conv(channels, channels, kernel_size=3, act="lrelu", conv_clamp=conv_clamp)
        self.conv1 = Conv(channels, out_channels, kernel_size=3, act="lrelu", down=2, conv_clamp=conv_clamp)
        self.skip = (
            Conv(channels, out_channels, kernel_size=1, bias=False, down=2) if architecture == "resnet" else None
        )

    def forward(self, x: Tensor | None, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.fromrgb is not None:
            assert image is not None
            y = self.fromrgb(image)
            x = y if x is None else x + y
            image = downsample2d(image, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        residual = self.skip(x, gain=math.sqrt(0.5))
        return residual + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), image


def minibatch_deviation(x: Tensor, *, group_size: int | None, channels: int) -> Tensor:
    """Append `channels` maps: the standard deviation in groups of pictures, averaged over features and space.

    x [N, C, H, W] -> [N, C + channels, H, W]. Picture n is in group n mod (N / group size).
    """
    count, features, height, width = x.shape
    size = count if group_size is None else min(group_size, count)
    if count % size:
        raise UserError(f"A batch of {count} cannot be split into groups of {size} for the minibatch deviation.")
    y = x.float() if x.dtype.itemsize < 4 else x
    y = y.reshape(size, -1, channels, features // channels, height, width)
    y = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean((2, 3, 4))
    y = y.to(x.dtype)[:, :, None, None].repeat(size, 1, height, width)
    return torch.cat([x, y], dim=1)


class DiscriminatorEnd(nn.Module):
    """The last block, at 4x4: features [N, C, 4, 4] -> [N, out]."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        channels = config.channels_at(4)
        self.group_size, self.group_channels = config.group_size, config.group_channels
        self.fromrgb = (
            Conv(config.image_channels, channels, kernel_size=1, act="lrelu") if config.architecture == "skip" else None
        )
        self.conv = Conv(
            channels + config.group_channels,
            channels,
            kernel_size=3,
            act="lrelu",
            conv_clamp=config.conv_clamp,
        )
        self.fc = Dense(channels * 16, channels, act="lrelu")
        self.out = Dense(channels, config.conditional_dim if config.c_dim else 1)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        if self.fromrgb is not None:
            assert image is not None
            x = x + self.fromrgb(image)
        if self.group_channels:
            x = minibatch_deviation(x, group_size=self.group_size, channels=self.group_channels)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(nn.Module):
    """images [N, image_channels, resolution, resolution] in about -1..1, c [N, c_dim] -> logits [N, 1]."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        for size in reversed(config.sizes[1:]):
            block = DiscriminatorBlock(
                config.channels_at(size),
                config.channels_at(size // 2),
                image_channels=config.image_channels,
                architecture=config.architecture,
                is_first=size == config.resolution,
                conv_clamp=config.conv_clamp,
            )
            self.add_module(f"b{size}", block)
        self.b4 = DiscriminatorEnd(config)
        if config.c_dim:
            self.mapping = Mapping(
                z_dim=0,
                c_dim=config.c_dim,
                w_dim=config.conditional_dim,
                num_ws=None,
                layers=config.mapping_layers,
                width=config.mapping_width,
                embed_width=config.embed_width,
                multiplier=config.learning_rate_multiplier,
            )

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        expected = (self.config.image_channels, self.config.resolution, self.config.resolution)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UserError(
                f"Pictures have shape {tuple(images.shape)}; expected [N, {', '.join(map(str, expected))}]."
            )
        x: Tensor | None = None
        image: Tensor | None = images.contiguous(memory_format=torch.channels_last)
        for size in reversed(self.config.sizes[1:]):
            x, image = self.get_submodule(f"b{size}")(x, image)
        assert x is not None
        logits = self.b4(x, image)
        if self.config.c_dim:
            projection = self.mapping(None, c)
            logits = (logits * projection).sum(1, keepdim=True) / math.sqrt(self.config.conditional_dim)
        return logits
