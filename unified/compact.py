"""Weights in one byte each, so that small models stay small files.

Every row of a matrix (of a kernel: every output channel) becomes int8 numbers with one scale, its largest magnitude
over 127: an error of at most 1/254 of that magnitude. Vectors, which are few and matter, become fp16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".row_scale"
SMALLEST = 4096  # values of a tensor below which a byte more or less is nothing


def packed(tensors: Mapping[str, Tensor], *, exact: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Tensors by name as they are stored. exact: parts of the names of those that stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        if not value.is_floating_point() or any(part in name for part in exact):
            found[name] = value
        elif value.ndim < 2 or value.numel() < SMALLEST:
            found[name] = value.half()
        else:
            rows = value.float().flatten(1)
            scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
            found[name] = (rows / scale).round().to(torch.int8).view(value.shape)
            found[name + SCALE] = scale.flatten()
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` was given, floats as float32; tensors that were not packed come back as they are, in float32."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            value = value.float() * scale.view(-1, *[1] * (value.ndim - 1))
        found[name] = value.float() if value.is_floating_point() else value
    return found
