"""The pictures of a comparison: the user's, or a person of the benchmark by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unified.avatars import benchmark
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.images import ImageInput, pictures_in, read_images

BENCHMARK = "avatarbench/"
LARGEST_SHOWN = 512  # pixels a side of the square that pictures are scored and shown at


@dataclass(frozen=True)
class Pictures:
    """images: what the user gave (or the benchmark's tensor). person: of the benchmark, or None."""

    images: ImageInput
    person: benchmark.Person | None = None

    @property
    def masks(self) -> Tensor | None:
        """[N,1,H,W] in 0..1, of the benchmark."""
        return None if self.person is None else self.person.masks[:, None].float()

    @property
    def category(self) -> str:
        return "" if self.person is None else "person"


def named_pictures(images: ImageInput) -> Pictures:
    """The pictures, with "avatarbench/person-03" replaced by that person of the benchmark.

    Raises UserError for a person who is not in the benchmark, with the nearest names.
    """
    one = images
    if isinstance(images, Sequence) and not isinstance(images, str) and len(images) == 1:
        one = images[0]
    if not isinstance(one, str) or not one.startswith(BENCHMARK) or Path(one).exists():
        return Pictures(images)
    people: Registry[benchmark.Person] = Registry("person of the benchmark")
    for person in benchmark.load():
        people.register(BENCHMARK + person.name, person)
    person = people.get(one)
    return Pictures(person.images, person)


def square_pictures(images: ImageInput) -> Tensor:
    """All pictures cut and scaled to one square [N,3,S,S], S the smallest side of all, at most 512."""
    each = [read_images(item) for item in _single(images)]
    side = min([LARGEST_SHOWN, *(min(item.shape[-2:]) for item in each)])
    return read_images(each, size=side)


def _single(images: ImageInput) -> list[ImageInput]:
    """The pictures one by one, folders replaced by their files."""
    if isinstance(images, str | os.PathLike):
        return list(pictures_in(images)) if Path(images).is_dir() else [images]
    if isinstance(images, Sequence):
        if not images:
            raise UserError("No picture was given: give at least one path, folder, PIL image, array or tensor.")
        return [single for item in images for single in _single(item)]
    return [images]
