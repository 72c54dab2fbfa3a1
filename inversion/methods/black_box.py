"""What searches without gradients share: codes as one vector, and how well a vector explains the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.space import Space
from unified.contract.view import View
from unified.errors import UserError


def not_one_vector(spaces: Sequence[Space]) -> str | None:
    """Why these spaces are no vector to search in, or None."""
    for space in spaces:
        if space.per_picture:
            return (
                f"it searches one vector for all pictures, and the space {space.name!r} has one for each; the method"
                " 'optimize' would work"
            )
        if not space.learns_from:
            return f"the space {space.name!r} is read, not searched; the method 'encode' would work"
    return None


@dataclass(frozen=True)
class Vector:
    """The free tensors of some codes, one after the other. codes: holders that open views read."""

    spaces: tuple[Space, ...]
    codes: tuple[Code, ...]
    free: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(view: View, spaces: Sequence[Space], codes: Sequence[Code], *, keys: Sequence[int]) -> Vector:
        """Free are the tensors to which their space lets a gradient through."""
        free = []
        for space, code in zip(spaces, codes, strict=True):
            with torch.enable_grad():
                leaf = code.map(lambda t: t.detach().clone().requires_grad_(t.is_floating_point()))
                seen = space.explore(view, leaf, progress=0.0, rng=Random(0), keys=keys)
            free.append(tuple(name for name in leaf.tensors if seen[name].requires_grad))
        if not any(free):
            raise UserError(
                f"A search needs real numbers to move, and the space {spaces[0].name!r} has none: use 'word', or the"
                " method that this space is filled by."
            )
        return Vector(tuple(spaces), tuple(codes), tuple(free))

    def read(self) -> Tensor:
        """The values now, float64 [size]."""
        parts = [code.tensors[name] for code, names in zip(self.codes, self.free, strict=True) for name in names]
        return torch.cat([part.detach().double().flatten() for part in parts])

    def write(self, values: Tensor) -> None:
        """Put other values into the codes."""
        start = 0
        for code, names in zip(self.codes, self.free, strict=True):
            new: Mapping[str, Tensor] = dict(code.tensors)
            for name in names:
                old = code.tensors[name]
                part = values[start : start + old.numel()]
                new = {**new, name: part.reshape(old.shape).to(old.dtype)}
                start += old.numel()
            code.tensors = dict(new)

    def prior(self, view: View) -> Tensor:
        """The spaces' own penalties, summed to one number."""
        found = [space.prior(view, code).double().mean() for space, code in zip(self.spaces, self.codes, strict=True)]
        return torch.stack(found).sum()
