"""Bias, activation, gain and clamp in one function."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "lrelu",
    slope: float = SLOPE,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(act(x + bias) * gain, -clamp, clamp).

    bias: [x.shape[dim]]. act: "linear" or "lrelu". gain: sqrt(2) for lrelu and 1 for linear when None.
    """
    if act not in ("linear", "lrelu"):
        raise ValueError(f"act={act!r}; expected 'linear' or 'lrelu'")
    if bias is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + bias.to(x.dtype).reshape(shape)
    if act == "lrelu":
        x = F.leaky_relu(x, slope)
    scale = (LRELU_GAIN if act == "lrelu" else 1.0) if gain is None else gain
    if scale != 1.0:
        x = x * scale
    return x if clamp is None else x.clamp(-clamp, clamp)
