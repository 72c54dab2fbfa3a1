"""The synthesis network ws -> picture (Karras et al. 2020, figure 2 and 7).

Each modulated layer is a module with its own `affine` (w -> style), so that a forward hook on an `affine`
reads or replaces styles (StyleSpace), and a hook on a `conv1` or a block the feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.stylegan.config import Architecture, GeneratorConfig
from backbones.stylegan.layers import Conv, Dense
from backbones.stylegan.ops import make_filter, modulated_epilogue, upsample2d
from backbones.stylegan.ops.bias_act import LRELU_GAIN
from backbones.stylegan.ops.modulated_conv import demodulation_of, modulated_mix, styled_conv2d
from backbones.stylegan.ops.prepared import PreparedWeight, bounded
from backbones.stylegan.runtime import HALF_CLAMP, Runtime
from unified.errors import UserError

Noise = Literal["const", "random", "none"] | MappingType[str, Tensor]


class ModulatedConv(nn.Module):
    """Modulated 3x3 convolution, demodulated, with noise, bias and leaky ReLU; doubles the size if up=2.

    x [N, in, H, W], w [N, w_dim] -> [N, out, up H, up W]. `noise_const` is [size, size]; code that
    wants a map per picture may put a [N, 1, size, size] tensor in its place.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        size: int,
        up: int = 1,
        conv_clamp: float | None = None,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.up, self.conv_clamp, self.use_noise = size, up, conv_clamp, use_noise
        self.affine = Dense(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", make_filter())
        if use_noise:
            self.register_buffer("noise_const", torch.randn(size, size))
            self.noise_strength = nn.Parameter(torch.zeros(()))
        self._prepared = PreparedWeight()

    def noise(self, kind: str, count: int, generator: torch.Generator | None) -> Tensor | None:
        """The unscaled noise of a batch: [size, size], [count, 1, size, size] or None."""
        if kind == "none" or not self.use_noise:
            return None
        if kind == "const":
            return self.noise_const
        device = self.noise_const.device
        source = device if generator is None else generator.device
        return torch.randn(count, 1, self.size, self.size, generator=generator, device=source).to(device)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None, *, gain: float = 1.0) -> Tensor:
        styles = bounded(self.affine(w), x.dtype)
        prepared = self._prepared(self.weight, x.dtype)
        y = styled_conv2d(x, prepared.weight, styles, up=self.up, resample_filter=self.resample_filter)
        clamp = self.conv_clamp if self.conv_clamp is not None or x.dtype != torch.float16 else HALF_CLAMP
        return modulated_epilogue(
            y,
            demodulation_of(prepared.energy, styles),
            noise=noise,
            strength=1.0 if noise is None else self.noise_strength,
            bias=self.bias,
            gain=gain * LRELU_GAIN,
            clamp=None if clamp is None else clamp * gain,
            overwrite=True,
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution, not demodulated: x [N, in, H, W], w [N, w_dim] -> [N, channels, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, *, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = Dense(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight
        styles = self.affine(w) / math.sqrt(weight.shape[1])
        y = modulated_mix(x, weight, styles) + self.bias.to(x.dtype)[:, None, None]
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """All layers of one size. Returns (features, picture so far or None)."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        w_dim: int,
        image_channels: int,
        architecture: Architecture,
        is_last: bool,
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.size, self.first = size, in_channels == 0
        self.register_buffer("resample_filter", make_filter())
        common = {"w_dim": w_dim, "size": size}
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, size, size))
        else:
            self.conv0 = ModulatedConv(
                in_channels, out_channels, **common, up=2, conv_clamp=conv_clamp, use_noise=use_noise
            )
        self.conv1 = ModulatedConv(out_channels, out_channels, **common, conv_clamp=conv_clamp, use_noise=use_noise)
        self.torgb = (
            ToRGB(out_channels, image_channels, w_dim=w_dim, conv_clamp=conv_clamp)
            if is_last or architecture == "skip"
            else None
        )
        self.skip = (
            Conv(in_channels, out_channels, kernel_size=1, bias=False, up=2)
            if architecture == "resnet" and not self.first
            else None
        )

    @property
    def convolutions(self) -> int:
        return 1 if self.first else 2

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        noise: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Tensor | None]:
        """ws [N, layers, w_dim]: one w per convolution, then the RGB layer's if there is one.

        x may be in float16 or bfloat16; the picture is in float32 or more.
        """
        each = list(ws.unbind(1))
        if x is None:
            start = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
            y = self.conv1(start, each.pop(0), noise[1])
        elif self.skip is not None:
            residual = self.skip(x, gain=math.sqrt(0.5))
            y = self.conv0(x, each.pop(0), noise[0])
            y = residual + self.conv1(y, each.pop(0), noise[1], gain=math.sqrt(0.5))
        else:
            y = self.conv0(x, each.pop(0), noise[0])
            y = self.conv1(y, each.pop(0), noise[1])
        if image is not None:
            image = upsample2d(image, self.resample_filter)
        if self.torgb is not None:
            rgb = self.torgb(y, each.pop(0))
            rgb = rgb.float() if rgb.dtype.itemsize < 4 else rgb
            image = rgb if image is None else image + rgb
        return y, image


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> pictures [N, image_channels, resolution, resolution], about -1..1."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.num_ws = config.num_ws
        self.runtime = Runtime()
        before = 0
        for size in config.sizes:
            block = SynthesisBlock(
                before,
                config.channels_at(size),
                size=size,
                w_dim=config.w_dim,
                image_channels=config.image_channels,
                architecture=config.architecture,
                is_last=size == config.resolution,
                conv_clamp=config.conv_clamp,
                use_noise=config.use_noise,
            )
            self.add_module(f"b{size}", block)
            before = config.channels_at(size)

    def block(self, size: int) -> SynthesisBlock:
        module = self.get_submodule(f"b{size}")
        return module  # type: ignore[return-value]

    def forward(self, ws: Tensor, *, noise: Noise = "const", generator: torch.Generator | None = None) -> Tensor:
        """noise: "const" uses the stored maps, "random" new ones for each picture (from `generator`), "none"
        no noise; or a mapping from layer names such as "b8.conv0" to maps that broadcast with
        [N, 1, size, size], where layers not named use their stored map.

        A single code [num_ws, w_dim] is one picture. Raises UserError for any other shape.
        """
        ws = self._checked(ws)
        x: Tensor | None = None
        image: Tensor | None = None
        index = 0
        for size in self.config.sizes:
            block = self.block(size)
            # A block's RGB layer shares its w with the next block's first convolution.
            count = block.convolutions + (block.torgb is not None)
            maps = tuple(self._noise(f"b{size}.{name}", noise, len(ws), generator) for name in ("conv0", "conv1"))
            x = None if x is None else self.runtime.convert(x, size, self.config.resolution)
            inputs = (x, image, ws[:, index : index + count], maps)
            if self.runtime.recomputes(size):
                x, image = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x, image = block(*inputs)
            index += block.convolutions
        assert image is not None
        return image

    def _noise(self, name: str, noise: Noise, count: int, generator: torch.Generator | None) -> Tensor | None:
        if name == "b4.conv0":
            return None
        if not isinstance(noise, str) and name in noise:
            return noise[name]
        kind = noise if isinstance(noise, str) else "const"
        if kind not in ("const", "random", "none"):
            raise UserError(f"noise={kind!r}; expected 'const', 'random', 'none' or a mapping of maps.")
        layer = self.get_submodule(name)
        return layer.noise(kind, count, generator)  # type: ignore[operator]

    def _checked(self, ws: Tensor) -> Tensor:
        expected = (self.num_ws, self.config.w_dim)
        if ws.ndim == 2 and tuple(ws.shape) == expected:
            ws = ws[None]
        if ws.ndim != 3 or tuple(ws.shape[1:]) != expected:
            raise UserError(
                f"Latent codes have shape {tuple(ws.shape)}; this generator expects "
                f"[N, {expected[0]}, {expected[1]}] (or [{expected[0]}, {expected[1]}] for one picture)."
            )
        return ws
