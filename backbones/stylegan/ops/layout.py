"""The order of values in memory that convolutions are fastest with."""

from __future__ import annotations

import torch
from torch import Tensor

_MANY = 256


def for_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, C, H, W] as a convolution with `weight` [., ., k, k] takes it fastest; what follows keeps the order.

    That is channels last, but for one case: on CPUs oneDNN's gradient of a weight of many channels then takes two
    to three times as long (512 channels at 16 to 64 pixels; with 64 or 128 channels about the same).
    """
    trained = weight.requires_grad and torch.is_grad_enabled()
    if trained and x.device.type == "cpu" and min(weight.shape[:2]) >= _MANY:
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last) if trained else x
