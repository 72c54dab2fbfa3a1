"""The avatars data: built once into the cache folder, then memory-mapped.

The folder is UNIFIED_CACHE, or ~/.cache/unified, then avatars/v1; one subfolder a split with .npy files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unified import files
from unified.avatars.attributes import ATTRIBUTES, Person, decode, draw_varying, encode
from unified.avatars.people import TRAIN_PEOPLE, VALIDATION_PEOPLE, train_people, validation_people
from unified.avatars.render import render_with_mask
from unified.errors import UserError

if TYPE_CHECKING:
    import torch

VERSION = "v1"
SIZE = 64
SPLITS = ("train", "validation")
CHUNK = 25
FIELDS = ("images", "masks", "attributes", "person", "shades")


@dataclass(frozen=True)
class AvatarSet:
    """Pictures with all that is known of them; N pictures, A attributes in the order of ATTRIBUTES.

    images: uint8 [N, 64, 64, 3]; masks: bool [N, 64, 64], True where the person is;
    attributes: int64 [N, A], indices into the values of ATTRIBUTES; person: int64 [N], who it is within the
    split; shades: float32 [N, 6], the person's shade (see attributes.Shade).
    """

    images: np.ndarray
    masks: np.ndarray
    attributes: np.ndarray
    person: np.ndarray
    shades: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def row(self, index: int) -> dict[str, str]:
        """The attributes of one picture by name, as captions.caption takes them."""
        return decode(self.attributes[index])


def cache_folder() -> Path:
    """Where the data of this version lies."""
    return files.cache_folder() / "avatars" / VERSION


def load(split: str, *, folder: Path | None = None) -> AvatarSet:
    """The "train" or "validation" part, memory-mapped; built first if it is not there yet.

    Raises UserError for another split's name, a damaged folder, or missing drawing packages.
    """
    if split not in SPLITS:
        raise UserError(f"The avatars have no split {split!r}; give one of {', '.join(SPLITS)}.")
    folder = cache_folder() if folder is None else folder
    if not (folder / "data.json").exists():
        build(folder)
    try:
        return AvatarSet(*(np.load(folder / split / f"{name}.npy", mmap_mode="r") for name in FIELDS))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The avatars in {folder} cannot be read ({error}); delete the folder and it is built again."
        ) from error


def build(
    folder: Path | None = None,
    *,
    seed: int = 0,
    people: int = TRAIN_PEOPLE,
    validation: int = VALIDATION_PEOPLE,
    pictures: int = 4,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw both splits and write them to `folder` (the cache folder by default), which appears when complete.

    people, validation: people in each split; pictures: of each person. The same arguments give the same
    bytes, whatever the number of workers. progress: called with (people done, people in all).
    Returns the folder. Raises UserError when the drawing packages are not installed.
    """
    folder = cache_folder() if folder is None else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    splits = {
        "train": train_people(people, seed=seed, validation=validation),
        "validation": validation_people(validation, seed=seed),
    }
    total = sum(len(group) for group in splits.values())
    done = 0
    try:
        for split, group in splits.items():
            (temporary / split).mkdir(parents=True)
            arrays = _empty(temporary / split, len(group) * pictures)
            jobs = [
                (group[start : start + CHUNK], start, f"avatars {split} v1 {seed}", pictures)
                for start in range(0, len(group), CHUNK)
            ]
            for job, part in zip(jobs, _map(jobs, workers), strict=True):
                start = job[1] * pictures
                for name, values in part.items():
                    arrays[name][start : start + len(values)] = values
                done += len(job[0])
                if progress is not None:
                    progress(done, total)
            for values in arrays.values():
                values.flush()
        facts = {"version": VERSION, "seed": seed, "people": people, "validation": validation}
        facts |= {"pictures": pictures}
        (temporary / "data.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            # Another process finished the same build first: its result is as good.
            if not (folder / "data.json").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to a float tensor [N, 3, H, W] in 0..1."""
    import torch

    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(255)


Job = tuple[list[Person], int, str, int]


def _draw(job: Job) -> dict[str, np.ndarray]:
    """All pictures of a few people; the random numbers depend on the person's number alone."""
    people, start, stream, pictures = job
    columns: dict[str, list[object]] = {name: [] for name in FIELDS}
    for number, person in enumerate(people, start):
        rng = random.Random(f"{stream} {number}")
        for _ in range(pictures):
            row = {**person.attributes(), **draw_varying(rng)}
            image, mask = render_with_mask(row, person.shade, size=SIZE)
            values = (image, mask, encode(row), number, person.shade.values())
            for name, value in zip(FIELDS, values, strict=True):
                columns[name].append(value)
    return {name: np.asarray(values) for name, values in columns.items()}


def _map(jobs: list[Job], workers: int):  # type: ignore[no-untyped-def]
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    # Fork, where there is one: a script then needs no `if __name__ == "__main__"`.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        yield from pool.map(_draw, jobs)


def _empty(folder: Path, count: int) -> dict[str, np.memmap]:
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.uint8, (SIZE, SIZE, 3)),
        "masks": (np.bool_, (SIZE, SIZE)),
        "attributes": (np.int64, (len(ATTRIBUTES),)),
        "person": (np.int64, ()),
        "shades": (np.float32, (6,)),
    }
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(count, *shape))
        for name, (kind, shape) in shapes.items()
    }
