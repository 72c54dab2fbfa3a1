"""Two pictures of one person, and words for what differs between them: what picture encoders learn from."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbones.diffusion.train import common
from backbones.diffusion.train.common import Pictures


@dataclass(frozen=True)
class Pairs:
    """person: int64 [N], who is in each of the pictures; pictures of one person follow each other.

    varying: the attributes that differ between pictures of one person: captions name these alone, so that who it
    is can only be had from the other picture.
    """

    pictures: Pictures
    person: np.ndarray
    varying: tuple[str, ...]

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(references, targets), indices [batch] each; another picture of the same person where there is one."""
        targets = common.draw(self.pictures, batch, generator=generator)
        shares = torch.rand(batch, generator=generator).tolist()
        references = []
        for target, share in zip(targets.tolist(), shares, strict=True):
            first = int(np.searchsorted(self.person, self.person[target], "left"))
            last = int(np.searchsorted(self.person, self.person[target], "right"))
            others = [index for index in range(first, last) if index != target] or [target]
            references.append(others[int(share * len(others))])
        return torch.tensor(references), targets

    def captions(self, indices: Tensor, *, generator: torch.Generator) -> list[str]:
        """What differs, one caption a picture."""
        seeds = torch.randint(2**62, (len(indices),), generator=generator).tolist()
        rows = [self.pictures.row(int(index)) for index in indices]
        return [
            self.pictures.caption({name: row[name] for name in self.varying}, random.Random(seed))
            for row, seed in zip(rows, seeds, strict=True)
        ]

    def people(self, count: int) -> Tensor:
        """Indices [<= count] of the first picture of as many people."""
        return torch.from_numpy(np.unique(np.asarray(self.person), return_index=True)[1][:count])


def avatar_pairs(split: str) -> Pairs:
    """The avatars of one split."""
    from unified.avatars import attributes, dataset

    return Pairs(common.avatars(split), np.asarray(dataset.load(split).person), attributes.VARYING_ATTRIBUTES)
