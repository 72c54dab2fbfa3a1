"""Dense and convolution layers with equalised learning rate, used by all StyleGAN2 networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stylegan.ops import bias_act, downsample2d, make_filter, upfirdn2d, upsample2d
from backbones.stylegan.ops.bias_act import LRELU_GAIN
from backbones.stylegan.ops.layout import for_convolution


class Dense(nn.Module):
    """y = act(x (W m / sqrt(fan_in))^T + b m), m the learning rate multiplier (Karras et al. 2018, 4.1).

    W is stored divided by m, so that all layers start at the same scale. [N, in] -> [N, out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: str = "linear",
        multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.act = act
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        scale = self.multiplier / math.sqrt(weight.shape[1])
        y = torch.addmm(self.bias.to(x.dtype), x, weight.t(), beta=self.multiplier, alpha=scale)
        return y if self.act == "linear" else bias_act(y, act=self.act)


class Conv(nn.Module):
    """Convolution with bias and activation, that can double (up=2) or halve (down=2) the size.

    [N, in, H, W] -> [N, out, up H / down, up W / down].
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        bias: bool = True,
        act: str = "linear",
        up: int = 1,
        down: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", make_filter())
        self.act, self.up, self.down, self.conv_clamp = act, up, down, conv_clamp
        if up == 2 and kernel_size != 1:
            raise ValueError("plain convolutions that double the size are 1x1 in StyleGAN2")

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        size = self.weight.shape[-1]
        # Both activations commute with a positive factor, so all gains go into weight and bias.
        gain_all = gain * (LRELU_GAIN if self.act == "lrelu" else 1.0)
        weight = (self.weight * (gain_all / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        bias = None if self.bias is None else (self.bias * gain_all).to(x.dtype)
        x = for_convolution(x, weight)
        if self.up == 2:
            x = upsample2d(F.conv2d(x, weight, bias), self.resample_filter)
        elif self.down == 1:
            x = F.conv2d(x, weight, bias, padding=size // 2)
        elif size == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter), weight, bias)
        else:
            taps = self.resample_filter.shape[-1]
            before, after = size // 2 + (taps - 1) // 2, size // 2 + (taps - 2) // 2
            x = upfirdn2d(x, self.resample_filter, padding=(before, after, before, after))
            x = F.conv2d(x, weight, bias, stride=2)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return x if self.act == "linear" and clamp is None else bias_act(x, act=self.act, gain=1.0, clamp=clamp)
