"""Taking a square out of a picture, at any angle and size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError
from unified.faces.square import Square

_BLUR = 0.02  # of the square's side: how much FFHQ blurs what it made up, in standard deviations
_MARGIN = 0.3  # of the square's side: how far beyond the picture that has faded to one colour, at least


def resample(
    image: Tensor, matrix: Tensor, shift: Tensor, *, size: tuple[int, int], oversample: int = 1, padding: str
) -> Tensor:
    """[C,*size]: each pixel p = (column, row) is the mean of oversample^2 places around A p + t in image [C,H,W].

    padding: what lies beyond the border, "reflection" or "border". Bilinear between pixels, in float64.
    """
    height, width = image.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack([columns, rows], -1).double()
    extent = torch.tensor([width, height], dtype=torch.float64)
    source = image[None].double()
    total = source.new_zeros(image.shape[0], *size)
    offsets = [(step + 0.5) / oversample - 0.5 for step in range(oversample)]
    for y in offsets:
        for x in offsets:
            at = (pixels + torch.tensor([x, y], dtype=torch.float64)) @ matrix.T + shift
            grid = (2 * at + 1) / extent - 1
            total += functional.grid_sample(source, grid[None], "bilinear", padding, align_corners=False)[0]
    return (total / oversample**2).to(image.dtype)


def cut(image: Tensor, square: Square, size: int) -> Tensor:
    """[3,size,size] of a picture [3,H,W] in 0..1.

    Where the square leaves the picture, the picture is mirrored, and blurred and faded to its median colour the
    farther the more, as FFHQ was made (Karras et al. 2019, appendix A, and its published script), so that no
    second face appears. A square of size x size pixels that lies on the picture's pixels is cut exactly.
    """
    if size < 1 or square.side < 1:
        raise UserError(f"A square of {square.side:.1f} pixels was to be cut to {size}; both must be at least 1.")
    matrix, shift = square.placement(size)
    often = max(math.ceil(square.side / size - 1e-6), 1)
    found = resample(image, matrix, shift, size=(size, size), oversample=often, padding="reflection")
    if not square.leaves(*image.shape[1:]):
        return found
    return _faded(found, image, square, matrix, shift)


def _faded(found: Tensor, image: Tensor, square: Square, matrix: Tensor, shift: Tensor) -> Tensor:
    size = found.shape[-1]
    beyond = outside(image.shape[1], image.shape[2], square, matrix, shift, size).to(found.dtype)
    blurred = _blur(found, _BLUR * size)
    found = found + (blurred - found) * (3 * beyond + 1).clamp(0, 1)
    median = image.flatten(1).median(1).values[:, None, None]
    return found + (median - found) * beyond.clamp(0, 1)


def outside(height: int, width: int, square: Square, matrix: Tensor, shift: Tensor, size: int) -> Tensor:
    """[size,size] how far beyond the border each pixel of the cut lies: 0 on it, 1 at the margin, negative inside."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = (torch.stack([columns, rows], -1).double() @ matrix.T + shift).unbind(-1)
    corners = square.corners
    far = torch.full((size, size), -math.inf, dtype=torch.float64)
    for place, limit, low, high in (
        (x, width, corners[:, 0].min(), corners[:, 0].max()),
        (y, height, corners[:, 1].min(), corners[:, 1].max()),
    ):
        for distance, leaving in ((-place - 0.5, -low - 0.5), (place - limit + 0.5, high - limit + 0.5)):
            if leaving > 0:
                far = torch.maximum(far, distance / max(float(leaving), _MARGIN * square.side))
    return far


def _blur(image: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of [C,S,S], mirrored at the border."""
    reach = min(max(math.ceil(3 * deviation), 1), image.shape[-1] - 1)
    if reach < 1:
        return image
    places = torch.arange(-reach, reach + 1, dtype=image.dtype)
    weights = torch.exp(-0.5 * (places / deviation).square())
    weights = weights / weights.sum()
    padded = functional.pad(image[:, None], (reach,) * 4, mode="reflect")
    across = functional.conv2d(padded, weights.view(1, 1, 1, -1))
    return functional.conv2d(across, weights.view(1, 1, -1, 1))[:, 0]
