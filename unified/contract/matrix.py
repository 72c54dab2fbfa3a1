"""What goes with what, derived from protocols and refusals; no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from unified.contract.backbone import backbones
from unified.contract.method import methods
from unified.contract.recipe import Stage, refusal
from unified.contract.space import spaces


@dataclass(frozen=True)
class Cell:
    """One combination; `reason` is None if it runs, else says why not."""

    backbone: str
    space: str
    method: str
    reason: str | None


def cells() -> list[Cell]:
    """Every registered backbone x space x method."""
    return [
        Cell(backbone, space, method, refusal(cls, [Stage((space_cls(),), method_cls())]))
        for backbone, cls in backbones
        for space, space_cls in spaces
        for method, method_cls in methods
    ]
