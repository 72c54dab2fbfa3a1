"""What is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a scheme shall make.

    prompt: text with the concepts' names in it; "" means: as inverted.
    edits: named attribute edits and their strength.
    n: pictures; None: one for each picture a per-picture concept holds, else one.
    sampling: settings of the backbone's own sampler by name (steps, guidance, ...); unknown ones are refused.
    """

    prompt: str = ""
    edits: Mapping[str, float] = field(default_factory=dict)
    n: int | None = None
    negative_prompt: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def asked(self) -> frozenset[str]:
        """Names of the parts that ask for something: 'prompt', 'edits'."""
        return frozenset(part for part in ("prompt", "edits") if getattr(self, part))
