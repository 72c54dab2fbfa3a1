"""Random perspective: pictures as if seen from a little aside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def perspective(pictures: Tensor, random: torch.Generator, *, amount: float, share: float) -> Tensor:
    """Pictures [N,C,H,W], a `share` of them with each corner moved inwards by up to amount / 2 of the side; black
    where nothing was."""
    count = len(pictures)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = corners * (1 - amount * torch.rand(count, 4, 2, generator=random))
    chosen = torch.rand(count, generator=random) < share
    moved = torch.where(chosen[:, None, None], moved, corners)
    grid = grid_of(homography(moved, corners.expand(count, 4, 2)), pictures.shape[-2], pictures.shape[-1])
    return functional.grid_sample(pictures, grid.to(pictures), mode="bilinear", align_corners=False)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """The projective maps [N,3,3] that take four points [N,4,2] to four others."""
    x, y = source.unbind(-1)
    u, v = target.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
        ],
        1,
    )
    solution = torch.linalg.solve(rows, torch.cat([u, v], 1))
    return torch.cat([solution, torch.ones(len(source), 1)], 1).reshape(-1, 3, 3)


def grid_of(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the result is taken from, [N,H,W,2] in -1..1."""
    y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    projected = points @ maps.transpose(1, 2)
    return (projected[..., :2] / projected[..., 2:]).reshape(-1, height, width, 2)


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) * (2 / count) - 1
