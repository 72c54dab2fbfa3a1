"""A point in a space: named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Code:
    """A point in a space; a holder: replacing its tensors reaches every open view it is bound to.

    space: registered name of the space it belongs to.
    tensors: named tensors, at least one.
    per_picture: axis 0 of every tensor counts the pictures of the reference (one w for each), or the
        tensors are shared by all of them (one weight delta).
    meta: JSON values: the space's settings, and what sampling must honour (schedule, prompt, guidance). Under
        "pictures" a list with one entry for each picture, where they differ.
    """

    space: str
    tensors: dict[str, Tensor]
    per_picture: bool = False
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError(f"a code of space {self.space!r} needs at least one tensor")

    @property
    def pictures(self) -> int | None:
        """How many pictures a per-picture code holds; None for a shared one."""
        return next(iter(self.tensors.values())).shape[0] if self.per_picture else None

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Code:
        return replace(self, tensors=dict(tensors), meta=dict(self.meta))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Code:
        """A new code with `fn` applied to each tensor."""
        return self.with_tensors({name: fn(value) for name, value in self.tensors.items()})

    def pick(self, rows: list[int]) -> Code:
        """The code of some pictures only; a shared code is returned as it is."""
        if not self.per_picture:
            return self
        picked = self.map(lambda t: t[rows])
        if "pictures" in self.meta:
            picked.meta["pictures"] = [self.meta["pictures"][row] for row in rows]
        return picked

    @staticmethod
    def together(parts: Sequence[Code]) -> Code:
        """One code of the pictures of all these per-picture codes, in their order: the inverse of `pick`."""
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        joined = parts[0].with_tensors(tensors)
        if "pictures" in joined.meta:
            joined.meta["pictures"] = [entry for part in parts for entry in part.meta["pictures"]]
        return joined
