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
    """Pixels (x, y) of the picture nearer than `radius` to the centre: [N, 2], at least the nearest one."""
    x, y = round(centre[0]), round(centre[1])
    reach = int(radius) + 1
    xs = torch.arange(max(x - reach, 0), min(x + reach, width - 1) + 1)
    ys = torch.arange(max(y - reach, 0), min(y + reach, height - 1) + 1)
    points = torch.cartesian_prod(xs, ys).to(torch.get_default_dtype())
    near = (points - torch.tensor([float(x), float(y)])).norm(dim=1) < radius
    return points[near] if bool(near.any()) else torch.tensor([[float(x), float(y)]])


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


def track(features: Tensor, point: Point, wanted: Tensor, *, radius: float) -> Point:
    """Equation 3: the pixel nearer than `radius` to the point in x and in y whose features are most like `wanted` [C].

    Likeness is the L1 distance, as in the paper (the authors' code takes L2).
    """
    height, width = features.shape[-2:]
    x, y, reach = round(point[0]), round(point[1]), max(1, round(radius))
    left, top = max(x - reach, 0), max(y - reach, 0)
    window = features[:, top : min(y + reach, height - 1) + 1, left : min(x + reach, width - 1) + 1]
    distances = (window - wanted[:, None, None]).abs().sum(0)
    row, column = divmod(int(distances.argmin()), distances.shape[1])
    return float(left + column), float(top + row)
