"""What is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Drag:
    """A point of the picture, (x, y) in pixels from the upper left one, and where it shall be."""

    start: tuple[float, float]
    goal: tuple[float, float]


@dataclass(frozen=True)
class Target:
    """What a scheme shall make.

    prompt: text with the concepts' names in it; "" means: as inverted.
    source: text that describes the pictures as they are, for schemes that go from it to the prompt.
    edits: named attribute edits and their strength.
    pictures: [N,3,H,W] in 0..1, such as one of the domain that pictures shall come to.
    drags: points that shall move. movable: [H, W] in 0..1, where the picture may change by that; None: everywhere.
    n: pictures; None: one for each picture a per-picture concept holds, else one.
    sampling: settings of the backbone's own sampler by name (steps, guidance, ...); unknown ones are refused.
    """

    prompt: str = ""
    edits: Mapping[str, float] = field(default_factory=dict)
    drags: tuple[Drag, ...] = ()
    pictures: Tensor | None = None
    movable: Tensor | None = None
    n: int | None = None
    negative_prompt: str = ""
    source: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def asked(self) -> frozenset[str]:
        """Names of the parts that ask for something: 'prompt', 'edits', 'source', 'drags', 'pictures'."""
        asked = {part for part in ("prompt", "edits", "source", "drags") if getattr(self, part)}
        return frozenset(asked if self.pictures is None else {*asked, "pictures"})
