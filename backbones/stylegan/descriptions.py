"""What is known of training pictures, as codes of the generator: one w per level of detail.

Pictures that are drawn (not photographed) come with their description. Read by a small network into w, and with
every level of the synthesis network told only its own part truthfully, descriptions make a start for StyleGAN2 in
which coarse, middle and fine layers decide what they do in a trained StyleGAN (Karras et al. 2019, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.stylegan.mapping import normalise
from unified.errors import UserError

COARSE, MIDDLE, FINE = range(3)


@dataclass(frozen=True)
class Descriptions:
    """N pictures described by A choices and S numbers.

    images: uint8 [N,H,W,3]. choices: int64 [N,A], the value of each; sizes [A]: how many values it has.
    numbers: float32 [N,S]. choice_levels [A], number_levels [S]: the level that decides each one.
    """

    images: np.ndarray
    choices: Tensor
    sizes: tuple[int, ...]
    numbers: Tensor
    choice_levels: tuple[int, ...]
    number_levels: tuple[int, ...]

    def __post_init__(self) -> None:
        count, numbers = len(self.images), self.numbers.shape[1]
        if self.choices.shape != (count, len(self.sizes)) or len(self.choice_levels) != len(self.sizes):
            raise UserError(
                f"Descriptions hold {count} pictures, choices {tuple(self.choices.shape)}, {len(self.sizes)} sizes and "
                f"{len(self.choice_levels)} levels; expected choices [pictures, sizes] and a level for each."
            )
        if len(self.numbers) != count or len(self.number_levels) != numbers:
            raise UserError(
                f"Descriptions hold {count} pictures, numbers {tuple(self.numbers.shape)} and "
                f"{len(self.number_levels)} levels; expected numbers [pictures, levels]."
            )

    @property
    def width(self) -> int:
        """Entries of a description with every choice as a one-hot vector."""
        return sum(self.sizes) + self.numbers.shape[1]

    def levels(self) -> Tensor:
        """The level of every entry, int64 [width]."""
        repeats = torch.tensor([*self.sizes, *(1 for _ in self.number_levels)])
        return torch.tensor([*self.choice_levels, *self.number_levels]).repeat_interleave(repeats)

    def entries(self, indices: Tensor) -> Tensor:
        """Descriptions [N,width] of some pictures: one-hot choices, then the numbers at unit deviation."""
        parts = [functional.one_hot(self.choices[indices, a], size) for a, size in enumerate(self.sizes)]
        return torch.cat([*(part.float() for part in parts), self._standard[indices]], 1)

    def mixed(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Descriptions [N,3,width], one per level: true of the picture where the level decides, else of another."""
        own, levels = self.entries(indices), self.levels()
        told = []
        for level in (COARSE, MIDDLE, FINE):
            others = torch.randint(len(self.images), indices.shape, generator=generator)
            told.append(torch.where(levels == level, own, self.entries(others)))
        return torch.stack(told, 1)

    @cached_property
    def _standard(self) -> Tensor:
        """The numbers with mean 0 and deviation 1."""
        return (self.numbers - self.numbers.mean(0)) / self.numbers.std(0).clamp_min(1e-6)


class Describer(nn.Module):
    """Descriptions [..., width] -> w [..., w_dim] of unit mean square."""

    def __init__(self, width: int, w_dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, w_dim))

    def forward(self, entries: Tensor) -> Tensor:
        return normalise(self.layers(entries.flatten(0, -2))).unflatten(0, entries.shape[:-1])


def level_of_layers(num_ws: int) -> Tensor:
    """Which level a style input belongs to, int64 [num_ws]: 4 and 8 pixels coarse, to 32 middle, then fine."""
    layers = torch.arange(num_ws)
    return torch.where(layers < 3, COARSE, torch.where(layers < 6, MIDDLE, FINE))
