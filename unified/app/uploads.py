"""What people upload: read within bounds, and what is no picture refused by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unified.comparison.store import png
from unified.errors import UserError
from unified.images import FORMATS, LARGEST_SIDE, read_images

_KEPT_SIDE = 1024  # pixels a side of the square that is kept of a picture


@dataclass(frozen=True)
class Bounds:
    """count: pictures of one job; bytes: of one file; pixels: of one picture, before anything is decoded."""

    count: int = 10
    bytes: int = 20 * 2**20
    pixels: int = 30_000_000


@dataclass(frozen=True)
class Uploads:
    """pictures: file name -> PNG, cut to a square of at most 1024 pixels. refused: file name -> why, in a sentence."""

    pictures: dict[str, bytes]
    refused: dict[str, str]

    def files(self, folder: str) -> dict[str, bytes]:
        """The pictures under names of our own, in their order."""
        return {f"{folder}/{number:02d}.png": data for number, data in enumerate(self.pictures.values())}


def read_uploads(paths: Sequence[str | os.PathLike[str]], bounds: Bounds | None = None) -> Uploads:
    """Read every file that is a picture; the others are named with the reason, and the rest goes on.

    Two files of one name are both kept, the second one as "name (2)". Raises UserError for too many files.
    """
    bounds = bounds or Bounds()
    if len(paths) > bounds.count:
        raise UserError(f"{len(paths)} files were given; at most {bounds.count} are taken. Choose the best of them.")
    pictures: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    for path in map(Path, paths):
        name, number = path.name, 1
        while name in pictures or name in refused:
            number += 1
            name = f"{path.name} ({number})"
        try:
            pictures[name] = _read(path, bounds)
        except UserError as error:
            refused[name] = str(error).replace(str(path), path.name)
    return Uploads(pictures, refused)


def _read(path: Path, bounds: Bounds) -> bytes:
    size = path.stat().st_size if path.is_file() else 0
    if size > bounds.bytes:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MB; at most {bounds.bytes / 2**20:.0f} are taken. Scale it down."
        )
    side = _shorter_side(path, bounds)
    return png(read_images(path, size=min(side, _KEPT_SIDE)))


def _shorter_side(path: Path, bounds: Bounds) -> int:
    """From the header alone; what it cannot read is left to `read_images`, which says why."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # a broken header raises whatever its parser stumbles over
        return _KEPT_SIDE
    if width * height > bounds.pixels or max(width, height) > LARGEST_SIDE:
        raise UserError(
            f"{path.name} has {width}x{height} pixels; at most {bounds.pixels / 1e6:.0f} million are taken, and"
            f" {LARGEST_SIDE} a side. Scale it down."
        )
    return min(width, height)
