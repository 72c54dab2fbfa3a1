"""A small labelled data set for the trainings' tests: coloured squares on coloured grounds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import numpy as np

from backbones.diffusion.train.common import Pictures

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
ATTRIBUTES = {"square": tuple(COLOURS), "ground": tuple(COLOURS)}
VOCABULARY = ["a", "square", "ground", "and", *COLOURS]


def sentence(row: Mapping[str, str]) -> str:
    return " and ".join(f"a {value} {name}" for name, value in row.items())


def squares(repeats: int, *, side: int = 16) -> Pictures:
    """9 * repeats pictures of side x side, every combination of the two colours."""
    labels = np.array(list(itertools.product(range(3), range(3))) * repeats)
    palette = np.array(list(COLOURS.values()), np.uint8)
    images = np.empty((len(labels), side, side, 3), np.uint8)
    images[:] = palette[labels[:, 1], None, None]
    inner = slice(side // 4, -side // 4)
    images[:, inner, inner] = palette[labels[:, 0], None, None]

    def caption(row: Mapping[str, str], rng: random.Random) -> str:
        names = list(row)
        rng.shuffle(names)
        return sentence({name: row[name] for name in names})

    return Pictures(images, labels, ATTRIBUTES, caption, lambda name, value: sentence({name: value}))
