"""Pictures in and out: whatever the user has -> one tensor [N,3,H,W] in 0..1, and back.

images = read_images(["a.png", "folder", pil_image], size=64)
save_image(grid(images, columns=4), "grid.png")
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unified.errors import UserError
from unified.files import write_file, write_files

SMALLEST_SIDE = 8  # pixels
LARGEST_SIDE = 8192  # pixels; a picture of this size takes about a gigabyte while it is read

# The formats that are read. Others that Pillow knows are left out: some start another program (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif",
)  # fmt: skip

ImageInput: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor | Sequence[ImageInput]"
"""What is accepted as pictures.

path: a picture, or a folder whose pictures are taken in the order of their names (not of its subfolders).
PIL image: any mode.
numpy: [H,W], [H,W,C] or [N,H,W,C] with C one of 1, 3, 4; uint8, uint16, bool, or float in 0..1.
tensor: [C,H,W] or [N,C,H,W]; uint8, or float in 0..1. Or a list of these.
"""


def read_images(inputs: ImageInput, *, size: int | None = None) -> Tensor:
    """Read pictures into one float32 tensor [N,3,H,W] in 0..1 on the CPU.

    Greyscale, palette, CMYK and 16-bit pictures are converted to RGB, transparency is put on white, a
    rotation noted by the camera (EXIF) is carried out, of animations the first frame is taken.

    size: side in pixels of the square that every picture is cut to (at its centre) and scaled to; averaging
    over areas when it gets smaller, Lanczos when it gets larger. None: pictures stay as they are, and must
    all have one size.

    Raises UserError: no such file, not a picture, truncated, an empty folder, no picture at all, a side below
    SMALLEST_SIDE or above LARGEST_SIDE, values outside 0..1, different sizes without `size`.
    """
    if size is not None and not SMALLEST_SIDE <= size <= LARGEST_SIDE:
        raise UserError(f"size={size} was asked for; it must be from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    named = [(name, _finish(pixels, size)) for name, pixels in _each(inputs, "the picture")]
    if not named:
        raise UserError("no picture was given; give at least one path, folder, PIL image, array or tensor")
    first_name, first = named[0]
    for name, picture in named:
        if picture.shape != first.shape:
            raise UserError(
                f"the pictures differ in size: {first_name} has {_size_text(first)} pixels, {name} has "
                f"{_size_text(picture)}; give pictures of one size, or size= to scale them to a square"
            )
    return torch.stack([picture for _, picture in named])


def to_numpy(images: Tensor) -> np.ndarray[Any, Any]:
    """uint8 [N,H,W,3] of float [N,3,H,W] in 0..1 (values outside are clamped); also [H,W,3] of [3,H,W]."""
    if images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise UserError(f"images of shape {tuple(images.shape)} were given; expected [N,3,H,W] or [3,H,W]")
    if not torch.isfinite(images).all():
        raise UserError("the images hold values that are not finite numbers, so there is nothing to show")
    quantised = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return quantised.movedim(-3, -1).contiguous().cpu().numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """One RGB PIL image for each of [N,3,H,W] in 0..1; a list of one for [3,H,W]."""
    pixels = to_numpy(images if images.ndim == 4 else images[None])
    return [Image.fromarray(picture) for picture in pixels]


def save_image(image: Tensor, path: str | os.PathLike[str]) -> Path:
    """Write one picture, [3,H,W] or [1,3,H,W] in 0..1, in the format of the suffix (.png, .jpg, .webp, ...).

    A file that is there is replaced only when the new one is complete. Raises UserError (unknown suffix, full
    disk, read-only folder, ...).
    """
    if image.ndim == 4 and image.shape[0] != 1:
        raise UserError(f"save_image writes one picture, given were {image.shape[0]}; use save_images or grid")
    return write_file(path, _encode(to_pil(image)[0], Path(path)))


def save_images(images: Tensor, folder: str | os.PathLike[str], *, stem: str = "image") -> list[Path]:
    """Write [N,3,H,W] in 0..1 as PNG files folder/stem-000.png, ...; all of them or none."""
    paths = [Path(folder) / f"{stem}-{i:03d}.png" for i in range(len(images))]
    return write_files({path: _encode(image, path) for path, image in zip(paths, to_pil(images), strict=True)})


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2, background: float = 1.0) -> Tensor:
    """One picture [3,h,w] showing [N,3,H,W] in reading order, `gap` pixels apart, on `background` (0..1).

    columns: pictures in a row; None: about as many columns as rows.
    """
    if images.ndim != 4 or images.shape[0] == 0:
        raise UserError(f"a grid needs at least one image [N,C,H,W]; given was shape {tuple(images.shape)}")
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    if columns < 1:
        raise UserError(f"a grid needs at least one column; columns={columns} was given")
    rows = math.ceil(count / columns)
    sheet = images.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), background)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder that have a picture's suffix, by name; hidden ones are left out.

    Raises UserError if there is none.
    """
    folder = Path(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error
    found = [folder / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise UserError(f"the folder {folder} holds no picture ({' '.join(SUFFIXES)}); give one that does")
    return found


def readable_pictures(inputs: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], dict[Path, str]]:
    """(the files that can be read, file -> why it cannot be) of files and folders, in their order.

    Raises UserError for a folder that holds no picture or cannot be read.
    """
    found: list[Path] = []
    refused: dict[Path, str] = {}
    for path in map(Path, inputs):
        for file in pictures_in(path) if path.is_dir() else [path]:
            try:
                _read_file(file)
            except UserError as error:
                refused[file] = str(error)
            else:
                found.append(file)
    return found, refused


def _each(inputs: Any, name: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Name and pixels of every picture; pixels [H,W,3], uint8, uint16 (0..65535) or float32 in 0..1."""
    if isinstance(inputs, str | os.PathLike):
        path = Path(inputs)
        if path.is_dir():
            for file in pictures_in(path):
                yield str(file), _read_file(file)
        else:
            yield str(path), _read_file(path)
    elif isinstance(inputs, Image.Image):
        _check_size(name, *inputs.size)
        yield name, _decode(inputs, name)
    elif isinstance(inputs, Tensor):
        if inputs.ndim not in (3, 4) or inputs.shape[-3] not in (1, 3, 4):
            raise UserError(
                f"{name} is a tensor of shape {tuple(inputs.shape)}; expected [C,H,W] or [N,C,H,W] "
                "with 1, 3 or 4 channels (arrays with channels last are taken as numpy)"
            )
        values = inputs.detach().cpu()
        if values.is_floating_point():
            values = values.float()  # numpy has no bfloat16
        yield from _from_array(values.movedim(-3, -1).numpy(), name)
    elif isinstance(inputs, np.ndarray):
        yield from _from_array(inputs, name)
    elif isinstance(inputs, Sequence) and not isinstance(inputs, bytes | bytearray | memoryview):
        for i, item in enumerate(inputs):
            yield from _each(item, f"picture {i + 1}")
    else:
        raise UserError(
            f"{name} is a {type(inputs).__name__}; expected a path, a folder, a PIL image, "
            "a numpy array, a tensor, or a list of these"
        )


def _read_file(path: Path) -> np.ndarray[Any, Any]:
    if not path.exists():
        raise UserError(f"there is no file {path}; check the path")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the check below refuses them with our own limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large: {error}; at most {LARGEST_SIDE} pixels a side are read; scale it down"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read: permission denied") from error
    except Exception as error:  # a broken header raises whatever its parser stumbles over
        raise UserError(f"{path} is not a picture that can be read; expected one of {', '.join(FORMATS)}") from error
    with image:
        _check_size(str(path), *image.size)  # before anything is decoded
        return _decode(image, str(path))


def _decode(image: Image.Image, name: str) -> np.ndarray[Any, Any]:
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # OSError, SyntaxError, ValueError, zlib.error, struct.error, ...
        raise UserError(f"{name} is truncated or damaged ({error}); save or download it again") from error
    if image.mode.startswith("I"):  # I;16, I;16B, ... and I (32 bits), which holds 16-bit values of PNG files
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{name} holds 32-bit values beyond 65535; save it with 8 or 16 bits per channel")
        return np.repeat(values.astype(np.uint16)[:, :, None], 3, axis=2)
    if image.mode == "F":
        return _checked_float(np.repeat(np.asarray(image)[:, :, None], 3, axis=2), name)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode == "La":
            image = image.convert("LA")
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _from_array(array: np.ndarray[Any, Any], name: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if array.ndim == 4:
        for i, item in enumerate(array):
            yield from _from_array(item, f"{name}[{i}]")
        return
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UserError(
            f"{name} is an array of shape {array.shape}; expected [H,W], [H,W,C] or [N,H,W,C] with 1, 3 or 4 "
            "channels (channels come last in numpy arrays, first in tensors)"
        )
    _check_size(name, array.shape[1], array.shape[0])
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = _checked_float(array, name)
    elif array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name} has values of type {array.dtype}; expected uint8, uint16, or float in 0..1")
    if array.shape[2] == 4:
        array = _on_white(array)
    yield name, np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _checked_float(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """float32 in 0..1, for values that are so up to rounding."""
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused too
        hint = "values of -1..1 become 0..1 by (x + 1) / 2" if low < 0 else "divide values of 0..255 by 255"
        raise UserError(f"{name} has values from {low:g} to {high:g}; expected 0..1 ({hint})")
    return array.astype(np.float32).clip(0, 1)


def _on_white(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[H,W,4] with straight alpha -> [H,W,3] in front of white."""
    if not np.issubdtype(pixels.dtype, np.floating):
        opaque = pixels[:, :, 3].min() == np.iinfo(pixels.dtype).max
        if opaque:
            return pixels[:, :, :3]
        pixels = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    alpha = pixels[:, :, 3:]
    return (pixels[:, :, :3] * alpha + (1 - alpha)).astype(np.float32)


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(f"{name} has {width}x{height} pixels; at least {SMALLEST_SIDE} a side are needed")
    if max(width, height) > LARGEST_SIDE:
        raise UserError(
            f"{name} has {width}x{height} pixels; at most {LARGEST_SIDE} a side are read, scale it down first"
        )


def _finish(pixels: np.ndarray[Any, Any], size: int | None) -> Tensor:
    """[H,W,3] -> float32 tensor [3,H,W] in 0..1, cut and scaled to a square if `size` is given."""
    height, width = pixels.shape[:2]
    if size is not None:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    divisor = 1.0 if np.issubdtype(pixels.dtype, np.floating) else float(np.iinfo(pixels.dtype).max)
    planes = []
    for channel in range(3):
        plane = pixels[:, :, channel].astype(np.float32) / np.float32(divisor)
        if size is not None and plane.shape != (size, size):
            smaller = size < plane.shape[0]
            filter_ = Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS
            resized = Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), filter_)
            plane = np.asarray(resized).clip(0, 1)
        planes.append(torch.from_numpy(np.array(plane)))
    return torch.stack(planes)


def _size_text(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _encode(image: Image.Image, path: Path) -> bytes:
    format_ = Image.registered_extensions().get(path.suffix.lower())
    if format_ not in FORMATS:
        raise UserError(f"{path} has no suffix of a picture format; use .png, .jpg or .webp")
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **({"quality": 95} if format_ in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()
