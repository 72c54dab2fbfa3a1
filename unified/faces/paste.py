"""Putting a square that was cut out and edited back into its picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError
from unified.faces.cut import cut, resample
from unified.faces.square import Square

FEATHER = 0.06  # of the side: over which the edited square fades into the picture at its edges
_SAME = 1 / 255  # differences up to one step of an 8-bit file are no edit
_SOFT = 1 / 32  # of the side: how far beyond an edit the picture is replaced too, fading


def paste(picture: Tensor, edited: Tensor, square: Square) -> Tensor:
    """The picture [3,H,W] in 0..1 with the edited cut [3,S,S] of `square` in it.

    Only where the edited square differs from what is cut out of the picture is it replaced, with soft transitions:
    what was not edited stays as sharp as it was, and an unchanged square gives the picture back bit for bit.
    """
    if edited.ndim != 3 or edited.shape[1] != edited.shape[2] or edited.shape[0] != picture.shape[0]:
        raise UserError(f"An edited square of shape {tuple(edited.shape)} was given; expected [3, S, S].")
    size = edited.shape[-1]
    weight = _weight(edited, cut(picture, square, size))
    top, left, bottom, right = _box(square, *picture.shape[1:])
    if top >= bottom or left >= right:
        return picture.clone()
    matrix, shift = square.placement(size)
    back = torch.linalg.inv(matrix)
    corner = torch.tensor([left, top], dtype=torch.float64)
    both = resample(
        torch.cat([edited.to(picture.dtype), weight.to(picture.dtype)]),
        back,
        back @ (corner - shift),
        size=(bottom - top, right - left),
        oversample=max(math.ceil(size / square.side - 1e-6), 1),
        padding="border",
    )
    region = picture[:, top:bottom, left:right]
    mixed = region + both[-1:] * (both[:-1] - region)
    result = picture.clone()
    result[:, top:bottom, left:right] = torch.where(both[-1:] > 0, mixed, region)
    return result


def _weight(edited: Tensor, before: Tensor) -> Tensor:
    """[1,S,S]: 1 where it was edited, 0 where it was not and on the square's edges, with ramps between."""
    size = edited.shape[-1]
    changed = ((edited - before).abs().amax(0, keepdim=True) > _SAME + 1e-6).to(before.dtype)
    reach = max(round(_SOFT * size), 1)
    wide = functional.max_pool2d(changed[None], 2 * reach + 1, stride=1, padding=reach)
    soft = functional.avg_pool2d(wide, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)[0]
    steps = torch.arange(size, dtype=before.dtype)
    edge = torch.minimum(steps, size - 1 - steps) / max(FEATHER * size, 1)
    ramp = edge.clamp(0, 1)
    return soft * torch.minimum(ramp[:, None], ramp[None, :])


def _box(square: Square, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the pixels that the square may cover in a picture of that size."""
    low, high = square.corners.amin(0), square.corners.amax(0)
    left, top = (max(math.floor(float(v)), 0) for v in low)
    return top, left, min(math.ceil(float(high[1])) + 1, height), min(math.ceil(float(high[0])) + 1, width)
