"""HFGI (Wang et al. 2022): what e4e's picture misses, brought back through the generator's features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.stylegan.encoders.blocks import EqualizedConv, ResidualUnit, ScaledLeakyReLU
from backbones.stylegan.encoders.config import StyleEncoderConfig, known_settings
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.inverter import Drawn, Inverter
from backbones.stylegan.encoders.network import StyleEncoder
from backbones.stylegan.encoders.warping import perspective
from unified.contract.view import View

ALIGNMENT_WEIGHT = 0.1
DISTORTION, SHARE = 0.15, 0.9  # of the warps in training, and of the pictures that are warped


@dataclass(frozen=True)
class ConsultationConfig:
    """The defaults are those of the paper's code at 1024 px.

    place, channels, size: of the features that are changed. align: channels of the alignment network at the
    pictures' size and its halves. consult: of the consultation encoder.
    """

    place: str = "b64.conv0"
    channels: int = 512
    size: int = 64
    align: tuple[int, int, int, int] = (16, 32, 48, 64)
    consult: tuple[int, int, int] = (32, 48, 64)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ConsultationConfig:
        """The inverse of `to_dict`, also after JSON. Raises UserError for unknown settings."""
        return ConsultationConfig(**known_settings(ConsultationConfig, values))


def _start(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs))


def _units(*widths: int, stride: int) -> nn.Sequential:
    """Residual units from each width to the next; the first one has the stride."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(ResidualUnit(a, b, 1 if i else stride, squeeze=False) for i, (a, b) in enumerate(pairs)))


class Consultation(nn.Module):
    """E_c: what is missing [N,3,R,R] -> (scale, shift) of features, each [N, channels, size, size] (section 3.2)."""

    def __init__(self, config: ConsultationConfig) -> None:
        super().__init__()
        first, second, third = config.consult
        self.size = config.size
        self.conv_layer1 = _start(3, first)
        self.conv_layer2 = _units(first, second, second, second, stride=2)
        self.conv_layer3 = _units(second, third, third, third, stride=2)
        self.condition_scale3 = self._head(third, config.channels)
        self.condition_shift3 = self._head(third, config.channels)

    @staticmethod
    def _head(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(EqualizedConv(inputs, outputs), ScaledLeakyReLU(), EqualizedConv(outputs, outputs))

    def forward(self, missing: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv_layer3(self.conv_layer2(self.conv_layer1(missing)))
        return (
            _resized(self.condition_scale3(features), self.size),
            _resized(self.condition_shift3(features), self.size),
        )


class Alignment(nn.Module):
    """ADA: (what is missing, the picture drawn), each [N,3,R,R] -> what is missing, where that picture has it
    (section 3.3)."""

    def __init__(self, config: ConsultationConfig) -> None:
        super().__init__()
        a, b, c, d = config.align
        self.conv_layer1 = _start(6, a)
        self.conv_layer2 = _units(a, b, b, b, stride=2)
        self.conv_layer3 = _units(b, c, c, c, stride=2)
        self.conv_layer4 = _units(c, d, d, d, stride=2)
        self.dconv_layer1 = _units(c + d, d, b, b, stride=1)
        self.dconv_layer2 = _units(b + b, b, a, a, stride=1)
        self.dconv_layer3 = _units(a + a, a, 3, 3, stride=1)

    def forward(self, missing: Tensor, drawn: Tensor) -> Tensor:
        first = self.conv_layer1(torch.cat([missing, drawn], 1))
        second = self.conv_layer2(first)
        third = self.conv_layer3(second)
        x = self.conv_layer4(third)
        for finer, layer in ((third, self.dconv_layer1), (second, self.dconv_layer2), (first, self.dconv_layer3)):
            x = layer(torch.cat([_resized(x, finer.shape[-1]), finer], 1))
        return x


def _resized(x: Tensor, size: int) -> Tensor:
    return functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class ConsultingInverter(Inverter):
    """e4e's code w and D = x - G(w) (equations 2 and 3); the features at one place then become f (1 + scale) + shift,
    (scale, shift) = E_c(ADA(D, y)), where y = G(w) for w as it is now: after an edit, D follows (equations 4 to 6).

    Training changes E_c and ADA. So that ADA learns to align, D is warped there: ADA shall undo it (equation 5).
    """

    kind: ClassVar[str] = "consultation"

    def __init__(self, encoder: StyleEncoderConfig, consultation: ConsultationConfig) -> None:
        super().__init__()
        self.config, self.consultation, self.resolution = encoder, consultation, encoder.resolution
        self.encoder = StyleEncoder(encoder)
        self.residue = Consultation(consultation)
        self.grid_align = Alignment(consultation)
        self.register_buffer("latent_avg", torch.zeros(encoder.num_ws, encoder.w_dim))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self

    def learned(self) -> nn.Module:
        return nn.ModuleList([self.residue, self.grid_align])

    def forward(self, missing: Tensor, drawn: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """(what is missing, aligned; the change of the features by name)."""
        aligned = self.grid_align(missing, drawn)
        scale, shift = self.residue(aligned)
        place = self.consultation.place
        return aligned, {f"{place}/scale": scale, f"{place}/shift": shift}

    def first(self, pictures: Tensor) -> Tensor:
        """w+ of pictures in -1..1."""
        ws: Tensor = self.latent_avg + self.encoder(pictures)
        return ws

    def shown(self, drawn: Tensor) -> Tensor:
        """A picture of the generator as these networks see it."""
        return _resized(drawn.clamp(-1, 1), self.resolution)

    def drawn(
        self, call: Callable[..., Any], pictures: Tensor, draw: Drawer, random: torch.Generator
    ) -> Iterator[Drawn]:
        with torch.no_grad():
            ws = self.first(pictures)
            seen = self.shown(draw(ws))
            missing = pictures - seen
            warped = perspective(missing, random, amount=DISTORTION, share=SHARE) if self.training else missing
        aligned, changes = call(warped, seen)
        apart = (aligned - missing).abs().mean()
        yield Drawn(draw.featured(ws, changes), ws, {"alignment": ALIGNMENT_WEIGHT * apart})

    @torch.no_grad()
    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        pictures = self.prepared(images)
        ws = self.first(pictures)
        missing = pictures - self.shown(self.drawer(view)(ws))
        return {"w+": {"w": ws.to(images.dtype)}, "distortion": {"missing": missing.to(images.dtype)}}

    def missing(self, images: Tensor, drawn: Tensor) -> Tensor:
        """What pictures [N,3,H,W] in 0..1 have that other ones, drawn in their place, do not: [N,3,R,R]."""
        return (self.prepared(images) - self.shown(drawn.to(self.latent_avg.dtype) * 2 - 1)).to(images.dtype)

    def consult(self, missing: Tensor, drawn: Tensor) -> Mapping[str, Tensor]:
        """The change of the features by name, for what is missing and pictures [N,3,H,W] in 0..1 as drawn now."""
        dtype = self.latent_avg.dtype
        _, changes = self(missing.to(dtype), self.shown(drawn.to(dtype) * 2 - 1))
        return {name: value.to(missing.dtype) for name, value in changes.items()}

    def settings(self) -> Mapping[str, Any]:
        return {"encoder": self.config.to_dict(), "consultation": self.consultation.to_dict()}
