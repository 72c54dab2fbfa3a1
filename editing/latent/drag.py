"""DragGAN's two steps on feature maps (Pan et al. 2023, "Drag Your GAN", section 3.2). Pure functions.

Positions are (x, y) in pixels of the picture, from 0 at the centre of the left or upper pixel; features are
[channels, height, width] at the picture's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Point = tuple[float, float]


def at(features: Tensor, points: Tensor) -> Tensor:
    """Features [C, H, W] at points [N, 2], between pixels by bilinear interpolation: [N, C]."""
    height, width = features.shape[-2:]
    size = points.new_tensor([width, height])
    grid = (2 * points + 1) / size - 1
    found = functional.grid_sample(
        features[None], grid[None, None].to(features.dtype), padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


def disc(centre: Point, radius: float, *, width: int, height: int) -> Tensor:
    """Points (x, y) of the picture by whole pixels from the centre, nearer to it than `radius`: [N, 2], it at least."""
    middle = torch.tensor(centre)
    reach = int(radius) + 1
    steps = torch.arange(-reach, reach + 1).to(torch.get_default_dtype())
    offsets = torch.cartesian_prod(steps, steps)
    points = middle + offsets[offsets.norm(dim=1) < radius]
    inside = ((points >= 0) & (points <= torch.tensor([width - 1.0, height - 1.0]))).all(1)
    return points[inside] if bool(inside.any()) else middle.unsqueeze(0)


def direction(point: Point, goal: Point) -> Tensor:
    """The unit vector (x, y) from the point to its goal; the whole way if it is less than a pixel."""
    way = torch.tensor(goal) - torch.tensor(point)
    return way / way.norm().clamp(min=1.0)


def motion_loss(features: Tensor, points: Sequence[Point], goals: Sequence[Point], *, radius: float) -> Tensor:
    """Equation 1, first term: what is at each handle point shall be one step nearer to its goal.

    sum over points of mean |stop-gradient(F(q)) - F(q + d)| over the pixels q nearer than `radius` (the
    authors' code takes means where the paper writes sums).
    """
    height, width = features.shape[-2:]
    losses = []
    for point, goal in zip(points, goals, strict=True):
        around = disc(point, radius, width=width, height=height)
        step = direction(point, goal)
        losses.append((at(features, around).detach() - at(features, around + step)).abs().mean())
    return torch.stack(losses).sum()


def still_loss(features: Tensor, before: Tensor, movable: Tensor) -> Tensor:
    """Equation 1, second term: mean |F - F0| where `movable` [H, W] is 0."""
    return ((features - before) * (1 - movable)).abs().mean()


def track(features: Tensor, point: Point, wanted: Tensor, *, radius: float, fine: int = 1) -> Point:
    """Equation 3: the point nearer than `radius` to this one in x and in y whose features are most like `wanted` [C].

    fine: points to a pixel, 1 for whole pixels. Likeness is the L1 distance, as in the paper (the authors' code takes
    L2).
    """
    height, width = features.shape[-2:]
    reach = max(1, round(radius * fine))
    steps = torch.arange(-reach, reach + 1)
    xs = ((round(point[0] * fine) + steps) / fine).clamp(0, width - 1).unique()
    ys = ((round(point[1] * fine) + steps) / fine).clamp(0, height - 1).unique()
    window = torch.cartesian_prod(xs, ys)
    nearest = (at(features, window) - wanted).abs().sum(1).argmin()
    x, y = window[nearest].tolist()
    return float(x), float(y)
