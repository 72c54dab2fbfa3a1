"""Where edit directions come from: the package of editing methods registers its sources and finders here.

A source knows named directions of some backbones (such as "glasses=sunglasses"), for listings and help; a
finder is a method that finds directions of a backbone and stores them where a source knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.registry import Registry


@dataclass(frozen=True)
class ValueEdit:
    """An edit that shall set an attribute to a value.

    method: that found the direction. value: "mouth=smile". asked, strength: as in `generate(..., edits={asked:
    strength})`; the strength is the one that the method recommends.
    """

    method: str
    value: str
    asked: str
    strength: float


class DirectionSource(Protocol):
    """Knows the edits by name that a backbone can be asked for with `generate(..., edits={name: strength})`."""

    def directions(self, backbone: Backbone) -> dict[str, str]:
        """Name of each direction of this backbone -> one line about it; empty if it knows none."""
        ...

    def towards(self, backbone: Backbone, wanted: Mapping[str, str]) -> list[ValueEdit]:
        """The edits of every method towards each wanted value that it knows.

        wanted: value ("glasses=sunglasses") -> what it is in words ("a person wearing sunglasses").
        """
        ...


class DirectionFinder(Protocol):
    """A method that finds directions. summary: one line with the citation."""

    @property
    def summary(self) -> str: ...

    def find(self, backbone: Backbone, *, samples: int | None, progress: Progress) -> str:
        """Find directions of this backbone and store them; one line on what was stored.

        samples: how many random samples to look at; None: the method's own number. Raises UserError if it
        cannot find any on this backbone.
        """
        ...


direction_sources: Registry[DirectionSource] = Registry("source of edit directions")
direction_finders: Registry[DirectionFinder] = Registry("method that finds directions")


def directions_of(backbone: Backbone) -> dict[str, str]:
    """Every named direction of `backbone`, over all sources, by name."""
    found: dict[str, str] = {}
    for _, source in direction_sources:
        found |= source.directions(backbone)
    return dict(sorted(found.items()))


def edits_towards(backbone: Backbone, wanted: Mapping[str, str]) -> list[ValueEdit]:
    """Every edit of `backbone` towards one of the values, over all sources; see `DirectionSource.towards`."""
    return [each for _, source in direction_sources for each in source.towards(backbone, wanted)]


def find_directions(backbone: Backbone, method: str, *, samples: int | None = None, progress: Progress) -> str:
    """Let one method find what it can on `backbone`; one line on what was stored. UserError if it cannot."""
    return direction_finders.get(method).find(backbone, samples=samples, progress=progress)
