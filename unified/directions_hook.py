"""Where edit directions come from: the package of editing methods registers its sources here.

A source knows named directions of some backbones (such as "glasses=sunglasses"), for listings and help.
"""

from __future__ import annotations

from typing import Protocol

from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.registry import Registry


class DirectionSource(Protocol):
    """Knows the edits by name that a backbone can be asked for with `generate(..., edits={name: strength})`."""

    def directions(self, backbone: Backbone) -> dict[str, str]:
        """Name of each direction of this backbone -> one line about it; empty if it knows none."""
        ...

    def find(self, backbone: Backbone, *, progress: Progress) -> str | None:
        """Find directions of this backbone and store them; one line on what was stored, or None if it cannot."""
        ...


direction_sources: Registry[DirectionSource] = Registry("source of edit directions")


def directions_of(backbone: Backbone) -> dict[str, str]:
    """Every named direction of `backbone`, over all sources, by name."""
    found: dict[str, str] = {}
    for _, source in direction_sources:
        found |= source.directions(backbone)
    return dict(sorted(found.items()))


def find_directions(backbone: Backbone, *, progress: Progress) -> list[str]:
    """Let every source find what it can on `backbone`; one line for each that stored something."""
    found = (source.find(backbone, progress=progress) for _, source in direction_sources)
    return [line for line in found if line is not None]
