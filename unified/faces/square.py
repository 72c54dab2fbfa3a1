"""The square around a face that FFHQ and CelebA-HQ are cut by, from its eyes and mouth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unified.errors import UserError

Pair = tuple[float, float]


@dataclass(frozen=True)
class Square:
    """A square anywhere in a picture, at any angle, in pixels: (x, y), the middle of the first pixel being (0, 0).

    right: from the centre to the middle of its right edge, half a side long.
    """

    centre: Pair
    right: Pair

    @property
    def down(self) -> Pair:
        """From the centre to the middle of the lower edge."""
        return -self.right[1], self.right[0]

    @property
    def side(self) -> float:
        return 2 * math.hypot(*self.right)

    @property
    def corners(self) -> Tensor:
        """[4,2] upper left, lower left, lower right, upper right."""
        (x, y), (a, b), (c, d) = self.centre, self.right, self.down
        signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
        return torch.tensor([[x + s * a + t * c, y + s * b + t * d] for s, t in signs], dtype=torch.float64)

    def placement(self, size: int) -> tuple[Tensor, Tensor]:
        """(A [2,2], t [2]): pixel p = (column, row) of a cut of size x size lies at A p + t in the picture."""
        matrix = torch.tensor([self.right, self.down], dtype=torch.float64).T * (2 / size)
        edge = torch.tensor(self.centre, dtype=torch.float64) + matrix @ torch.full((2,), 0.5 - size / 2).double()
        return matrix, edge

    def leaves(self, height: int, width: int) -> bool:
        """Whether a part of it lies outside a picture of that size."""
        low, high = self.corners.amin(0), self.corners.amax(0)
        return bool((low < -0.5).any() or high[0] > width - 0.5 or high[1] > height - 0.5)


def face_square(points: Tensor) -> Square:
    """The square of a face with `points` [5,2]: both eyes, the nose, both corners of the mouth, from left to right.

    Karras et al. 2018 (Progressive GAN), appendix C, by which FFHQ was cut as well: with the eyes e0, e1 and the
    mouth's corners m0, m1,
        x' = e1 - e0,  y' = (e0 + e1)/2 - (m0 + m1)/2,  c = (e0 + e1)/2 - 0.1 y',
        s = max(4.0 |x'|, 3.6 |y'|),  x = normalize(x' - rotate90(y')).
    Raises UserError for points of another shape, or that are not finite, or all at one place.
    """
    if points.shape != (5, 2) or not bool(torch.isfinite(points).all()):
        raise UserError(f"A face has five points of x and y; {tuple(points.shape)} or a number that is none was given.")
    eye0, eye1, _, mouth0, mouth1 = points.double()
    eyes, mouth = (eye0 + eye1) / 2, (mouth0 + mouth1) / 2
    across, up = eye1 - eye0, eyes - mouth
    turned = torch.stack([up[1], -up[0]])  # rotate90 of y', which points to the left in an upright face
    right = across - turned
    length = torch.linalg.vector_norm(right)
    if length < 1e-6:
        raise UserError("The points of the face are all at one place, or its mouth lies above its eyes: check them.")
    side = max(4.0 * float(torch.linalg.vector_norm(across)), 3.6 * float(torch.linalg.vector_norm(up)))
    centre = eyes - 0.1 * up
    half = right / length * (side / 2)
    return Square((float(centre[0]), float(centre[1])), (float(half[0]), float(half[1])))


def five_points(landmarks: Tensor) -> Tensor:
    """[5,2] of 68 landmarks [68,2] in the order of the 300-W data set, or of five points as they are."""
    if landmarks.shape == (5, 2):
        return landmarks.double()
    if landmarks.shape != (68, 2):
        raise UserError(f"Landmarks of shape {tuple(landmarks.shape)} were given; expected [5, 2] or [68, 2].")
    found = landmarks.double()
    return torch.stack([found[36:42].mean(0), found[42:48].mean(0), found[30], found[48], found[54]])
