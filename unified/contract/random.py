"""Random numbers that do not depend on batching.

Each picture has a stream of its own, derived from the seed and a path of keys. So the third picture of a
batch of five gets the numbers it gets alone, and a resumed run gets the numbers of an unbroken one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Random:
    """A seed and a path of keys; `child` derives independent streams."""

    seed: int
    path: tuple[str, ...] = field(default=())

    def child(self, *keys: str | int) -> Random:
        return Random(self.seed, (*self.path, *(str(key) for key in keys)))

    def generator(self, *keys: str | int) -> torch.Generator:
        """A fresh CPU generator for this path extended by `keys`."""
        text = "/".join((str(self.seed), *self.path, *(str(key) for key in keys)))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def normal(self, rows: Sequence[int], shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers [len(rows), *shape]; row i is the stream of key rows[i].

        Drawn in float32 (float64 for dtype float64), so that half precision sees the same numbers.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        drawn = [torch.randn(tuple(shape), generator=self.generator(row), dtype=wide) for row in rows]
        return torch.stack(drawn).to(dtype)

    def uniform(self, rows: Sequence[int], shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers in [0, 1), float32 [len(rows), *shape]."""
        return torch.stack([torch.rand(tuple(shape), generator=self.generator(row)) for row in rows])

    def integers(self, rows: Sequence[int], low: int, high: int) -> Tensor:
        """Integers in [low, high), int64 [len(rows)]."""
        return torch.stack([torch.randint(low, high, (), generator=self.generator(row)) for row in rows])

    def permutation(self, n: int) -> list[int]:
        return torch.randperm(n, generator=self.generator("permutation")).tolist()
