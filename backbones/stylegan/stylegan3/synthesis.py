"""The alias-free synthesis network ws -> picture (Karras et al. 2021, section 3).

Each modulated layer is a module with its own `affine` (w -> style), as in the StyleGAN2 network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.stylegan.layers import Dense
from backbones.stylegan.ops.bias_act import LRELU_GAIN, SLOPE
from backbones.stylegan.ops.dispatch import filtered_lrelu, modulate
from backbones.stylegan.ops.modulated_conv import demodulation_of, modulated_mix, styled_conv2d
from backbones.stylegan.ops.prepared import PreparedWeight, bounded
from backbones.stylegan.runtime import HALF_CLAMP, Runtime
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.filters import lowpass, radial_lowpass
from backbones.stylegan.stylegan3.layout import Band, Layer, plan
from backbones.stylegan.synthesis import Noise
from unified.errors import UserError

MAGNITUDE_HALF_LIFE = 20_000  # pictures after which the running mean of a layer's power has halved


class FourierInput(nn.Module):
    """w [N, w_dim] -> the picture's coarsest features [N, channels, size, size].

    Plane waves of random frequency (uniform in a disc) and phase, turned and moved by what `affine` reads
    from w: (cos, sin, x, y). `transform` [3, 3] is applied to the coordinates first: the user's own
    rotation and translation, inverted, in units of the picture's width.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, channels: int, *, w_dim: int, band: Band) -> None:
        super().__init__()
        self.band = band
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Dense(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        direction = torch.randn(channels, 2)
        radius = direction.norm(dim=1, keepdim=True)
        # A normal vector's length is Rayleigh-distributed: sqrt(1 - exp(-r^2 / 2)) fills the disc evenly.
        uniform = (1 - (-radius.square() / 2).exp()).sqrt()
        self.register_buffer("freqs", direction / radius * uniform * band.cutoff)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor) -> Tensor:
        cos, sin, x, y = self._pose(w).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turn = _matrix([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])
        move = _matrix([[one, zero, -x], [zero, one, -y], [zero, zero, one]])
        pose = turn @ move @ self.transform.to(w.dtype)

        # sin(2 pi (f . (A p + b) + phase)) = sin(2 pi ((f A) . p + (phase + f . b)))
        phases = self.phases + pose[:, :2, 2] @ self.freqs.t()
        freqs = self.freqs @ pose[:, :2, :2]
        # Waves that a scaling pushed over the cutoff fade out towards the Nyquist frequency.
        excess = (freqs.norm(dim=2) - self.band.cutoff) / (self.band.rate / 2 - self.band.cutoff)
        amplitudes = (1 - excess).clamp(0, 1)

        size = self.band.size
        centres = (torch.arange(size, device=w.device, dtype=w.dtype) + 0.5 - size / 2) / self.band.rate
        angle_x = centres[:, None] * freqs[:, None, :, 0]
        angle_y = centres[:, None] * freqs[:, None, :, 1] + phases[:, None, :]
        waves = torch.sin(2 * math.pi * (angle_y[:, :, None] + angle_x[:, None]))  # [N, size, size, C]
        mixed = (waves * amplitudes[:, None, None]) @ (self.weight.t() / math.sqrt(len(self.weight)))
        return mixed.permute(0, 3, 1, 2)

    def _pose(self, w: Tensor) -> Tensor:
        pose = self.affine(w)
        return pose / pose[:, :2].norm(dim=1, keepdim=True)


class AliasFreeLayer(nn.Module):
    """Modulated convolution, then leaky ReLU at a higher sampling rate between two low-pass filters.

    x [N, in, H, W], w [N, w_dim] -> [N, out, H', W'] with the sizes of `layer`. The RGB layer has neither
    demodulation nor filters nor leaky ReLU. `magnitude_ema`: running mean of the input's power, which the
    input is divided by.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, layer: Layer, *, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.layer, self.conv_clamp = layer, conv_clamp
        self.affine = Dense(w_dim, layer.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(
            torch.randn(layer.out_channels, layer.in_channels, layer.kernel_size, layer.kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(layer.out_channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        before, after, rate = layer.before, layer.after, layer.rate
        design = radial_lowpass if layer.radial else lowpass
        up = lowpass(layer.up_taps, cutoff=before.cutoff, width=before.half_width * 2, rate=rate)
        down = design(layer.down_taps, cutoff=after.cutoff, width=after.half_width * 2, rate=rate)
        self.register_buffer("up_filter", up)
        self.register_buffer("down_filter", down)
        self._prepared = PreparedWeight()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles, strength = self.affine(w), self.magnitude_ema.rsqrt()
        if self.layer.is_rgb:
            weight = self.weight
            y = modulated_mix(x, weight, styles * (strength / math.sqrt(weight[0].numel())))
        else:
            styles = bounded(styles, x.dtype)
            prepared = self._prepared(self.weight, x.dtype)
            y = styled_conv2d(x, prepared.weight, styles, padding=self.layer.kernel_size - 1)
            y = modulate(y, demodulation_of(prepared.energy, styles) * strength, overwrite=True)
        clamp = self.conv_clamp if self.conv_clamp is not None or x.dtype != torch.float16 else HALF_CLAMP
        return filtered_lrelu(
            y,
            self.up_filter,
            self.down_filter,
            self.bias,
            up=self.layer.up,
            down=self.layer.down,
            padding=self.layer.padding,
            slope=1.0 if self.layer.is_rgb else SLOPE,
            gain=1.0 if self.layer.is_rgb else LRELU_GAIN,
            clamp=clamp,
        )

    @torch.no_grad()
    def track(self, x: Tensor) -> None:
        """magnitude_ema <- its running mean with the power of the layer's input x."""
        power = x.detach().float().square().mean()
        self.magnitude_ema.copy_(power.lerp(self.magnitude_ema, 0.5 ** (len(x) / MAGNITUDE_HALF_LIFE)))


class AliasFreeSynthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> pictures [N, image_channels, resolution, resolution], about -1..1."""

    def __init__(self, config: AliasFreeConfig) -> None:
        super().__init__()
        self.config = config
        self.num_ws = config.num_ws
        self.runtime = Runtime()
        self.plan = plan(config)
        first = self.plan[0]
        self.input = FourierInput(first.in_channels, w_dim=config.w_dim, band=first.before)
        for layer in self.plan:
            module = AliasFreeLayer(layer, w_dim=config.w_dim, conv_clamp=config.conv_clamp)
            self.add_module(layer.name, module)

    def forward(
        self,
        ws: Tensor,
        *,
        noise: Noise = "const",
        generator: torch.Generator | None = None,
        track: bool = False,
    ) -> Tensor:
        """noise, generator: accepted as by the StyleGAN2 network and without effect: there is no noise here.

        track: update every layer's `magnitude_ema` (training). A single code [num_ws, w_dim] is one picture.
        Raises UserError for any other shape.
        """
        first, *rest = self._checked(ws).unbind(1)
        x = self.input(first)
        for layer, w in zip(self.plan, rest, strict=True):
            module = self.get_submodule(layer.name)
            if track:
                module.track(x)  # type: ignore[operator]
            x = self.runtime.convert(x, layer.after.rate, self.config.resolution)
            if self.runtime.recomputes(layer.after.rate):
                x = checkpoint(module, x, w, use_reentrant=False, preserve_rng_state=False)
            else:
                x = module(x, w)
        return (x.float() if x.dtype.itemsize < 4 else x) * self.config.output_scale

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


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """[[a, b], ...] of tensors [N] -> [N, rows, columns]."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
