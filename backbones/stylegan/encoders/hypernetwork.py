"""HyperStyle (Alaluf et al. 2022): a network that predicts how the generator's weights change for a picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.stylegan.encoders.blocks import Trunk
from backbones.stylegan.encoders.config import StyleEncoderConfig, known_settings
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.inverter import Drawn, Inverter
from backbones.stylegan.encoders.network import StyleEncoder
from backbones.stylegan.layers import Dense
from unified.contract.view import View


@dataclass(frozen=True)
class HypernetworkConfig:
    """The defaults are those of the published network.

    layers: (number, path of its weight, outputs, inputs) of every convolution whose weight is changed; the number
    counts all modulated layers, RGB layers too. shared: channels of those convolutions that share their last layers.
    wide: channels of a head before its last layer. inner, shared_inner: channels within a head of its own, and within
    one that shares. kernel: 3 for an offset of every weight of a kernel in the shared heads, 1 for one a kernel.
    """

    layers: tuple[tuple[int, str, int, int], ...]
    shared: int
    stem: int = 64
    stages: tuple[tuple[int, int], ...] = ((64, 3), (128, 4), (256, 6), (512, 3))
    resolution: int = 256
    wide: int = 512
    inner: int = 256
    shared_inner: int = 128
    kernel: int = 3

    inputs: ClassVar[int] = 6
    trunk: ClassVar[str] = "resnet"

    @property
    def halvings(self) -> int:
        """How often the last features are halved down to one place."""
        return (self.resolution // 16).bit_length() - 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> HypernetworkConfig:
        """The inverse of `to_dict`, also after JSON. Raises UserError for unknown settings."""
        return HypernetworkConfig(**known_settings(HypernetworkConfig, values))


class SharedKernels(nn.Module):
    """z [N, width] -> offsets [N, outputs, inputs, k, k], by two layers: one code for each input channel, and from
    that the kernels of all outputs (Ha et al. 2017, section 4.1). All heads that share it use the same weights."""

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.width, self.channels, self.kernel = width, channels, kernel
        self.w1 = nn.Parameter(torch.randn(width, channels * kernel**2) / 40)
        self.b1 = nn.Parameter(torch.randn(channels * kernel**2) / 40)
        self.w2 = nn.Parameter(torch.randn(width, channels * width) / 40)
        self.b2 = nn.Parameter(torch.randn(channels * width) / 40)

    def forward(self, z: Tensor) -> Tensor:
        codes = (z @ self.w2 + self.b2).view(-1, self.channels, self.width)
        size = (self.channels, self.channels, self.kernel, self.kernel)
        return (codes @ self.w1 + self.b1).view(-1, *size)


def _halving(widths: list[int], *, first_stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2 if i else first_stride, 1), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


class SharingHead(nn.Module):
    """Features -> one code -> the shared kernels."""

    def __init__(self, features: int, config: HypernetworkConfig, kernels: SharedKernels) -> None:
        super().__init__()
        widths = [features, *[config.shared_inner] * config.halvings, config.wide]
        self.convs = _halving(widths, first_stride=1)
        self.linear = Dense(config.wide, config.wide)
        self.hypernet = kernels

    def forward(self, features: Tensor) -> Tensor:
        offsets: Tensor = self.hypernet(self.linear(self.convs(features).flatten(1)))
        return offsets


class OwnHead(nn.Module):
    """Features -> one offset for each kernel, [N, outputs, inputs, 1, 1]."""

    def __init__(self, features: int, config: HypernetworkConfig, outputs: int, inputs: int) -> None:
        super().__init__()
        self.shape = (outputs, inputs)
        # It stops at 2 places a side, and then averages.
        widths = [features, *[config.inner] * max(config.halvings - 2, 0), config.wide]
        self.convs = _halving(widths, first_stride=2)
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(config.wide, outputs * inputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        offsets: Tensor = self.output(self.convs(features))
        return offsets.view(-1, *self.shape, 1, 1)


class Hypernetwork(Trunk):
    """(picture, what is drawn of it) as [N,6,R,R] in -1..1 -> offsets [N, outputs, inputs, k or 1, ...] by path.

    A residual network of 34 layers and a head for each convolution (section 3.3); heads of convolutions with the most
    channels end in the same weights.
    """

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__(config)
        last = config.stages[-1][0]
        self.shared_weight_hypernet = SharedKernels(config.wide, config.shared, config.kernel)
        self.refinement_blocks = nn.ModuleDict()
        self.paths: dict[str, str] = {}
        for number, path, outputs, inputs in config.layers:
            shares = outputs == inputs == config.shared
            self.refinement_blocks[str(number)] = (
                SharingHead(last, config, self.shared_weight_hypernet)
                if shares
                else OwnHead(last, config, outputs, inputs)
            )
            self.paths[str(number)] = path

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        features = self.features(given)[-1]
        return {self.paths[number]: head(features) for number, head in self.refinement_blocks.items()}


class WeightInverter(Inverter):
    """w by an encoder into W, then weights W (1 + sum of offsets), the offsets in `iterations` rounds that each see
    what the last one draws (Alaluf et al. 2022, section 3; 5 rounds there).

    Training: the paper trains the encoder into W first. Here both learn at once, the encoder by its own picture and
    the hypernetwork by those that follow, on what the encoder says by then.
    """

    kind: ClassVar[str] = "hypernetwork"

    def __init__(self, encoder: StyleEncoderConfig, hypernet: HypernetworkConfig, *, iterations: int) -> None:
        super().__init__()
        self.config, self.hyper, self.iterations, self.resolution = encoder, hypernet, iterations, hypernet.resolution
        self.encoder = StyleEncoder(encoder)
        self.hypernet = Hypernetwork(hypernet)
        self.register_buffer("latent_avg", torch.zeros(encoder.num_ws, encoder.w_dim))

    def aliases(self) -> Mapping[str, str]:
        own = "hypernet.shared_weight_hypernet"
        return {
            f"hypernet.refinement_blocks.{number}.hypernet.{part}": f"{own}.{part}"
            for number, head in self.hypernet.refinement_blocks.items()
            if isinstance(head, SharingHead)
            for part, _ in head.hypernet.named_parameters()
        }

    def forward(self, pictures: Tensor, drawn: Tensor | None = None) -> Any:
        """Without what is drawn: ws [N, num_ws, w_dim], equal in all layers. With it: offsets by path."""
        if drawn is None:
            return self.latent_avg + self.encoder(pictures)
        return self.hypernet(torch.cat([pictures, self.pooled(drawn)], 1))

    def drawn(
        self, call: Callable[..., Any], pictures: Tensor, draw: Drawer, random: torch.Generator
    ) -> Iterator[Drawn]:
        ws = call(pictures)
        found = draw(ws)
        yield Drawn(found, ws)
        ws, offsets = ws.detach(), dict[str, Tensor]()
        for _ in range(self.iterations):
            more = call(pictures, found.detach())
            offsets = {path: value + offsets.get(path, 0) for path, value in more.items()}
            found = draw.offset(ws, offsets)
            yield Drawn(found, ws)
            offsets = {path: value.detach() for path, value in offsets.items()}

    @torch.no_grad()
    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        draw, pictures = self.drawer(view), self.prepared(images)
        ws = self(pictures)
        found, offsets = draw(ws), dict[str, Tensor]()
        for _ in range(self.iterations):
            offsets = {path: value + offsets.get(path, 0) for path, value in self(pictures, found).items()}
            found = draw.offset(ws, offsets)
        shared = {f"{path}.delta": value.squeeze(0).to(images.dtype) for path, value in offsets.items()}
        return {"w": {"w": ws[:, 0].to(images.dtype)}, "weight-factors": shared}

    def settings(self) -> Mapping[str, Any]:
        return {
            "encoder": self.config.to_dict(),
            "hypernet": self.hyper.to_dict(),
            "iterations": self.iterations,
        }
