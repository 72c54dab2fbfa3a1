"""What a study shows: the pictures of a finished comparison, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unified.comparison.ask import neutral_text
from unified.comparison.run import parse_run
from unified.contract.keys import digest
from unified.errors import UserError
from unified.images import read_images


@dataclass(frozen=True)
class Material:
    """runs: titles. texts: the prompts without the concept's name. seeds: of the pictures.

    pictures: (run, number of text, seed) -> [3,H,W] in 0..1. references: [N,3,H,W], or None.
    """

    runs: tuple[str, ...]
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: Mapping[tuple[str, int, int], Tensor]
    category: str = ""
    references: Tensor | None = None


def read_report(folder: Path, *, references: Tensor | None = None, runs: Sequence[str] | None = None) -> Material:
    """The pictures that `unified compare` kept in its folder.

    runs: titles, to leave others out. Raises UserError if it is no such folder, a run is not in it, or fewer
    than two runs have pictures.
    """
    path = folder / "comparison.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        prompts = [str(text) for text in about["prompts"]]
        seeds = tuple(int(seed) for seed in about["seeds"])
        titles = [str(title) for title in about["runs"]]
        name, category = str(about["name"]), str(about["category"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no comparison ({error}): give the --output folder of `unified compare`."
        ) from error
    unknown = [title for title in runs or () if title not in titles]
    if unknown:
        raise UserError(f"The comparison has no run {unknown[0]!r}; it has {', '.join(titles)}.")
    pictures: dict[tuple[str, int, int], Tensor] = {}
    for title in titles if runs is None else runs:
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                file = folder / "cells" / parse_run(title).slug / f"{digest(prompt)[:10]}-{seed}.png"
                if file.is_file():
                    pictures[title, number, seed] = read_images(file)[0]
    shown = tuple(title for title in titles if any(run == title for run, _, _ in pictures))
    if len(shown) < 2:
        raise UserError(f"{folder} has pictures of {len(shown)} runs; a study compares at least 2.")
    texts = tuple(neutral_text(prompt, name=name, category=category) for prompt in prompts)
    return Material(shown, texts, seeds, pictures, category, references)
