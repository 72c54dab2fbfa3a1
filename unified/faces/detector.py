"""Finding the faces of a photo: five points each, by YuNet (Wu et al. 2023) of the package yuface, if it is there.

yuface holds the authors' compiled detector with its weights (0.5 MB, BSD-3-Clause) and needs nothing but numpy.
Any function from a picture to faces can stand in its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError
from unified.faces.cut import cut
from unified.faces.square import Square, face_square
from unified.images import to_numpy

_CONFIDENCE = 0.6
_LARGEST = 960  # pixels of the longer side: larger pictures are scaled down, as the detector's authors advise
_CLOSE = 320  # pixels of the square in which a face's points are read again, more finely
_LOOKS = 3  # how often


@dataclass(frozen=True)
class Face:
    """points: [5,2] eyes, nose, corners of the mouth as (x, y) in pixels, (0, 0) the middle of the first one.

    score: how sure the detector is, 0..1.
    """

    points: Tensor
    score: float

    @property
    def square(self) -> Square:
        return face_square(self.points)


class NoFace(UserError):
    """A picture was looked at, and shows no face."""


Detector = Callable[[Tensor], list[Face]]


def find_faces(picture: Tensor) -> list[Face]:
    """The faces of a picture [3,H,W] in 0..1, from left to right; those turned by more than 45 degrees may be missed.

    Raises UserError, naming the extra, if the detector is not installed.
    """
    detect = _package().detect
    height, width = picture.shape[1:]
    scale = min(_LARGEST / max(height, width), 1.0)
    small = picture
    if scale < 1:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        small = functional.interpolate(picture[None].float(), size, mode="bilinear", antialias=True)[0]
    ratio = torch.tensor([width / small.shape[2], height / small.shape[1]], dtype=torch.float64)
    found = [replace(face, points=(face.points + 0.5) * ratio - 0.5) for face in _detect(detect, small)]
    return sorted((_finer(detect, picture, face) for face in found), key=lambda face: float(face.points[:, 0].mean()))


def choose(faces: Sequence[Face], index: int | None, *, name: str) -> Face:
    """The face of that index, or the only one. NoFace for none, UserError for several without an index or too few.

    name: of the picture, for the message.
    """
    if not faces:
        raise NoFace(
            f"No face was found in {name}: give a picture in which one is upright, not cut off, and seen from the"
            " front, or its five points in a file beside it."
        )
    places = ", ".join(
        f"{number} at ({face.square.centre[0]:.0f}, {face.square.centre[1]:.0f}), {face.square.side:.0f} pixels"
        for number, face in enumerate(faces)
    )
    if index is None:
        if len(faces) > 1:
            raise UserError(f"{name} shows {len(faces)} faces: choose one by its index ({places}).")
        return faces[0]
    if not 0 <= index < len(faces):
        raise UserError(f"{name} has no face {index}: it shows {len(faces)} ({places}).")
    return faces[index]


def _detect(detect: Callable[..., Any], picture: Tensor) -> list[Face]:
    pixels = (to_numpy(picture[None])[0][:, :, ::-1]).copy()  # blue first
    scores, _, points = detect(pixels, _CONFIDENCE)
    return [
        Face(torch.tensor(five.tolist(), dtype=torch.float64).view(5, 2), float(score) / 100)
        for score, five in zip(scores, points, strict=True)
    ]


def _finer(detect: Callable[..., Any], picture: Tensor, face: Face) -> Face:
    """The same face with its points read again in its own upright square, where a pixel is less of the face.

    Repeated, as the better the points are, the more the square is that of any other photo of the face.
    """
    for _ in range(_LOOKS):
        square = face.square
        if square.side < 1:
            break
        matrix, shift = square.placement(_CLOSE)
        close = [(one.points @ matrix.T + shift) for one in _detect(detect, cut(picture, square, _CLOSE))]
        best = min(close, key=lambda points: float((points - face.points).square().sum()), default=None)
        if best is None or float((best - face.points).square().sum(1).mean().sqrt()) > 0.1 * square.side:
            break
        face = replace(face, points=best)
    return face


def _package() -> Any:
    try:
        return importlib.import_module("yuface")
    except ImportError as error:
        raise UserError(
            "Finding faces needs the package yuface, which is not installed: install the extra with `pip install"
            " 'unified-personalization[faces]'` (there are builds for Python 3.11 on x86-64 Linux and Windows), or give"
            ' the five points of each face in PICTURE.face.json beside its picture: {"points": [[x, y], ...]}.'
        ) from error
