"""Pictures of samples that lie beside the embedded models' weights."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from torch import Tensor

from unified.files import write_file
from unified.images import grid, to_pil


def sheet(images: Tensor, *, columns: int, scale: int = 1) -> bytes:
    """A PNG of 256 colours, a third of the bytes: images [N,3,H,W] in 0..1 in rows, enlarged by a whole number."""
    large = images.detach().cpu().clamp(0, 1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    picture = to_pil(grid(large, columns=columns, gap=0))[0]
    file = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def save_sheet(path: Path, images: Tensor, *, columns: int, scale: int = 1) -> Path:
    """Write what `sheet` makes to a file."""
    return write_file(path, sheet(images, columns=columns, scale=scale))
