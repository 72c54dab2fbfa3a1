"""Where edit directions come from: the package of editing methods registers its sources here.

A source knows named directions of some backbones (such as "glasses=sunglasses"), for listings and help.
"""

from __future__ import annotations

from typing import Protocol

from unified.contract.backbone import Backbone
from unified.contract.registry import Registry


class DirectionSource(Protocol):
    """Knows the edits by name that a backbone can be asked for with `generate(..., edits={name: strength})`."""

    def directions(self, backbone: Backbone) -> dict[str, str]:
        """Name of each direction of this backbone -> one line about it; empty if it knows none."""
        ...


direction_sources: Registry[DirectionSource] = Registry("source of edit directions")


def directions_of(backbone: Backbone) -> dict[str, str]:
    """Every named direction of `backbone`, over all sources, by name."""
    found: dict[str, str] = {}
    for _, source in direction_sources:
        found |= source.directions(backbone)
    return dict(sorted(found.items()))
