"""What the encoders are made of. Names of parameters are those of the published networks."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.stylegan.layers import Dense
from backbones.stylegan.ops.bias_act import LRELU_GAIN, SLOPE

REDUCTION = 16  # of the squeeze


class SqueezeExcitation(nn.Module):
    """x times one factor in 0..1 for each channel, from the mean over space (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.fc2 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.fc2(functional.relu(self.fc1(squeezed))).sigmoid()


def _every(x: Tensor, stride: int) -> Tensor:
    """Every stride-th place. Taken before a convolution of 1 px instead of by its stride: the backward pass of such
    convolutions, on pictures with their channels last in memory, crashes on CPUs with torch 2.13."""
    return x[:, :, ::stride, ::stride].contiguous() if stride > 1 else x


class ResidualUnit(nn.Module):
    """Unit of the improved residual network that encoders take over from ArcFace (Deng et al. 2019, section 2.2.2).

    Batch normalisation, convolution, PReLU, convolution with the stride, batch normalisation; with squeeze, weighted
    by channel. [N, inputs, H, W] -> [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, squeeze: bool) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer: nn.Module | None = None
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.res_layer = nn.Sequential(*layers, *([SqueezeExcitation(outputs)] if squeeze else []))

    def forward(self, x: Tensor) -> Tensor:
        short = _every(x, self.stride)
        if self.shortcut_layer is not None:
            short = self.shortcut_layer(short)
        return short + self.res_layer(x)


class EqualizedConv(nn.Module):
    """Convolution of 3 px with equalised learning rate and a bias (Karras et al. 2018, section 4.1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), self.bias, padding=1)


class ScaledLeakyReLU(nn.Module):
    """Leaky ReLU of StyleGAN2: slope 0.2, gain sqrt 2."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, SLOPE) * LRELU_GAIN


class BasicBlock(nn.Module):
    """Unit of a residual network of 34 layers (He et al. 2016, figure 5)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(_every(x, self.stride))
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + short)


class MapToStyle(nn.Module):
    """map2style: convolutions that halve the features down to one place, then a dense layer (Richardson et al. 2021,
    section 3.1). [N, inputs, 2^halvings, 2^halvings] -> [N, outputs]."""

    def __init__(self, inputs: int, width: int, outputs: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers += [nn.Conv2d(width if i else inputs, width, 3, 2, 1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = Dense(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        style: Tensor = self.linear(self.convs(x).flatten(1))
        return style


class TrunkSettings(Protocol):
    """What a trunk is built from; see `StyleEncoderConfig`."""

    @property
    def inputs(self) -> int: ...
    @property
    def stem(self) -> int: ...
    @property
    def stages(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def trunk(self) -> str: ...


class Trunk(nn.Module):
    """Base of the encoders: picture [N, inputs, R, R] -> features of every stage, the last at R / 16.

    trunk "ir-se": a convolution that keeps the size, then four stages that each halve it, c1, c2 and c3 of the papers
    being the outputs of the last three. "resnet": a convolution of 7 px that halves, then four stages of which the
    first keeps the size (a residual network of 34 layers without its pooling).
    """

    def __init__(self, config: TrunkSettings) -> None:
        super().__init__()
        stem = config.stem
        if config.trunk == "resnet":
            self.conv1 = nn.Conv2d(config.inputs, stem, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(stem)
            self.relu = nn.PReLU(stem)
        else:
            self.input_layer = nn.Sequential(
                nn.Conv2d(config.inputs, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
            )
        units: list[nn.Module] = []
        self.ends: list[int] = []
        width = stem
        for number, (channels, depth) in enumerate(config.stages):
            for i in range(depth):
                if config.trunk == "resnet":
                    units.append(BasicBlock(width, channels, 2 if i == 0 and number else 1))
                else:
                    units.append(ResidualUnit(width, channels, 1 if i else 2, squeeze=True))
                width = channels
            self.ends.append(len(units) - 1)
        self.body = nn.Sequential(*units)

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of every stage, the finest first."""
        x = self.relu(self.bn1(self.conv1(x))) if hasattr(self, "conv1") else self.input_layer(x)
        found = []
        for number, unit in enumerate(self.body):
            x = unit(x)
            if number in self.ends:
                found.append(x)
        return found
