"""Inversion by the space's own encoder: no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space


@dataclass(frozen=True)
class Encode(Method):
    """The space's initial code as it is: for visual tokens the nearest codes of the tokenizer."""

    name: ClassVar[str] = "encode"

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        blind = [space.name for space in spaces if not space.encodes]
        if blind:
            return f"the space {blind[0]!r} has no encoder; a method that searches (such as 'optimize') would work"
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        with torch.no_grad(), job.open() as view:
            return [
                [s.initial(view, m.reference, rng=job.rng.child("initial", s.name)) for s in spaces]
                for m in job.members
            ]


methods.register("encode", Encode)
