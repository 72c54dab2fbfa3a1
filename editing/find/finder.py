"""Methods that find directions, by name, and where what they find is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from editing.direction_file import save_directions, user_file
from editing.directions import Directions
from editing.find.judging import Judge, embedded_judge
from unified.contract.abilities import Renders, lacked
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.registry import Registry
from unified.directions_hook import direction_finders
from unified.errors import UserError


class Search(Protocol):
    """Finds directions of a GAN. samples: how many random samples it looks at; None: its own default."""

    def __call__(
        self, backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress
    ) -> Directions: ...


@dataclass(frozen=True)
class Finder:
    """A method that finds directions and stores them in a direction file.

    method: name in files and in front of directions. summary: one line with the citation. needs: protocols
    of the backbone. embedded: whether the embedded directions contain them.
    """

    method: str
    summary: str
    search: Search
    needs: tuple[type, ...] = (Renders,)

    def directions(
        self, backbone: Backbone, judge: Judge, *, samples: int | None = None, rng: Random, progress: Progress
    ) -> Directions:
        """The directions. Raises UserError if the backbone cannot have any of this method."""
        if lacked(backbone, self.needs):
            raise UserError(f"{self.method} cannot find directions on {backbone.id}: it is no GAN with style vectors.")
        if samples is not None and samples < 1:
            raise UserError(f"--samples {samples} was given; give 1 or more.")
        return self.search(backbone, judge, samples=samples, rng=rng, progress=progress)

    def find(self, backbone: Backbone, *, samples: int | None, progress: Progress) -> str:
        """Find and store; one line on what was found, judged by the embedded classifier."""
        rng = Random(0).child("directions")
        found = self.directions(backbone, embedded_judge(), samples=samples, rng=rng, progress=progress)
        path = save_directions(found, user_file(backbone.fingerprint, self.method))
        return f"{len(found.every)} directions by {self.method}, judged by {found.extractor}: {path}"


finders: Registry[Finder] = Registry("method that finds directions")


def register(finder: Finder) -> Finder:
    """Let the finder be found by name, here and by `unified edit --find`."""
    finders.register(finder.method, finder)
    direction_finders.register(finder.method, finder)
    return finder
