"""Aligning photos: from files to squares in files, with what is needed to put them back.

Beside OUT/NAME.png lies OUT/NAME.align.json: the picture, its square, and the points of the face. The points of a
picture are read from PICTURE.face.json beside it where that is there, in the format of `unified evaluate
face-identity`; else a detector finds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.errors import UserError
from unified.evaluation.face_identity import read_points
from unified.faces.cut import cut
from unified.faces.detector import Detector, Face, choose, find_faces
from unified.faces.paste import paste
from unified.faces.square import Square, face_square
from unified.files import write_file
from unified.images import pictures_in, read_images, save_image

LARGEST = 1024  # pixels a side of a cut, if no size is asked for: that of FFHQ
POINTS = ".face.json"
PLACE = ".align.json"


@dataclass(frozen=True)
class Aligned:
    """A face cut out of a picture. image: [3,S,S] in 0..1. points: [5,2] in the picture."""

    picture: Path
    image: Tensor
    square: Square
    points: Tensor

    def save(self, folder: Path, *, name: str = "") -> Path:
        """Write the cut and where it is from; returns the path of the cut."""
        path = folder / f"{name or self.picture.stem}.png"
        place = {
            "picture": str(self.picture.resolve()),
            "centre": self.square.centre,
            "right": self.square.right,
            "points": self.points.tolist(),
        }
        save_image(self.image, path)
        write_file(path.with_name(path.stem + PLACE), (json.dumps(place, indent=1) + "\n").encode())
        return path


def faces_of(path: Path, picture: Tensor, *, detect: Detector = find_faces) -> list[Face]:
    """The faces of a picture: the one of its file of points, if it has one, else those that are found."""
    if not path.with_name(path.name + POINTS).is_file():
        return detect(picture)
    points = read_points(path)
    return [] if points is None else [Face(points, 1.0)]


def align(path: Path, *, face: int | None = None, size: int | None = None, detect: Detector = find_faces) -> Aligned:
    """The face of a picture. face: its index, from left to right; needed if there are several.

    size: pixels a side; default: as many as the picture has there, at most 1024. Raises UserError for no face,
    several without an index, or an index that there is not.
    """
    picture = read_images(path)[0]
    chosen = choose(faces_of(path, picture, detect=detect), face, name=str(path))
    square = face_square(chosen.points)
    side = size or min(max(round(square.side), 1), LARGEST)
    return Aligned(path, cut(picture, square, side), square, chosen.points)


def align_all(
    paths: Sequence[Path], *, face: int | None = None, size: int | None = None, detect: Detector = find_faces
) -> tuple[list[Aligned], dict[Path, UserError]]:
    """Those that could be aligned, and why the others could not."""
    found: list[Aligned] = []
    failed: dict[Path, UserError] = {}
    for path in paths:
        try:
            found.append(align(path, face=face, size=size, detect=detect))
        except UserError as error:
            failed[path] = error
    return found, failed


def save_all(found: Sequence[Aligned], folder: Path) -> list[Path]:
    """Write every cut under its picture's name; pictures of one name get numbers, so that none is lost."""
    names: list[str] = []
    for one in found:
        stem, number = one.picture.stem, 2
        while (name := stem if number == 2 and stem not in names else f"{stem}-{number}") in names:
            number += 1
        names.append(name)
    return [one.save(folder, name=name) for one, name in zip(found, names, strict=True)]


def files_of(pictures: Sequence[str | Path]) -> list[Path]:
    """Files as they are, folders replaced by the pictures in them."""
    return [file for item in map(Path, pictures) for file in (pictures_in(item) if item.is_dir() else [item])]


def write_points(path: Path, points: Tensor | None) -> Path:
    """Write the points of a picture's face beside it; None: it was looked for and is not there."""
    data = {"points": None if points is None else points.tolist()}
    return write_file(path.with_name(path.name + POINTS), (json.dumps(data) + "\n").encode())


def read_place(path: Path) -> tuple[Path, Square]:
    """The picture and the square of a file that `Aligned.save` wrote. Raises UserError if it is none."""
    try:
        place: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        square = Square(_pair(place["centre"]), _pair(place["right"]))
        return Path(str(place["picture"])), square
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not say where a face is from ({error}): give the .align.json that `unified align` wrote."
        ) from error


def _pair(values: Any) -> tuple[float, float]:
    x, y = (float(value) for value in values)
    if not torch.isfinite(torch.tensor([x, y])).all():
        raise ValueError("a number is not finite")
    return x, y


def paste_back(edited: Path, place: Path, output: Path, *, picture: Path | None = None) -> Path:
    """Put an edited cut back into its picture. picture: if it lies elsewhere by now."""
    original, square = read_place(place)
    whole = read_images(picture or original)[0]
    face = read_images(edited)[0]
    if face.shape[1] != face.shape[2]:
        raise UserError(f"{edited} is {face.shape[2]} x {face.shape[1]}; an aligned face is square.")
    return save_image(paste(whole, face, square), output)
