"""What the Edit page's sliders do: a concept moved along directions and drawn again, while one waits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from unified.app.html import data_address
from unified.app.job import Job, State
from unified.app.works import CONCEPT, Workshop
from unified.comparison.store import png
from unified.contract.abilities import Renders, can
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.directions_hook import directions_of
from unified.errors import UserError

_KEPT = 8  # concepts held in memory


@dataclass
class Editor:
    """Concepts of finished inversions, the latest few in memory, and what sliders make of them."""

    workshop: Workshop
    _concepts: OrderedDict[str, Concept] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def concept(self, job: Job) -> Concept:
        """What the inversion found. Raises UserError while it is not done."""
        if job.state is not State.DONE or job.kind != "invert":
            raise UserError("There is nothing to edit yet: invert a picture first.")
        with self._lock:
            if job.id not in self._concepts:
                while len(self._concepts) >= _KEPT:
                    self._concepts.popitem(last=False)
                self._concepts[job.id] = Concept.load(self.workshop.store.path(job.id) / CONCEPT)
            self._concepts.move_to_end(job.id)
            return self._concepts[job.id]

    def backbone(self, job: Job) -> Backbone:
        return self.workshop.models.get(str(job.settings["model"]))

    def is_quick(self, job: Job) -> bool:
        """Whether the model draws in one pass, so that sliders can redraw at once."""
        return can(self.workshop.models.offer(str(job.settings["model"])).backbone, Renders)

    def directions(self, job: Job) -> dict[str, str]:
        """The named directions of the job's model: name -> one line about it; empty where there are none."""
        found = directions_of(self.backbone(job)) if self.is_quick(job) else {}
        return {name: about for name, about in found.items() if not name.endswith(":TEXT")}  # those are asked in words

    def redraw(self, job: Job, edits: Mapping[str, float]) -> str:
        """The first picture with these edits, as a data address. Zeros leave it as it was inverted."""
        moved = {name: float(strength) for name, strength in edits.items() if strength}
        image = self.backbone(job).generate(self.concept(job), edits=moved, n=1, output="pt", progress=Silent())
        return data_address(png(image.float()))


def readable(name: str) -> str:
    """A direction's name for people: "sefa:hair_colour=red" -> "hair colour: red (sefa)"."""
    method, _, rest = name.rpartition(":")
    text = rest.replace("_", " ").replace("=", ": ")
    return f"{text} ({method})" if method else text


def choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """(what is shown, name) of directions: those with a plain name first."""
    return [(readable(name), name) for name in sorted(names, key=lambda name: (":" in name, name))]


def shown_first(names: Iterable[str], count: int) -> list[str]:
    """The sliders that a new inversion begins with: one value of each attribute, or what there is without attributes.

    Of an attribute, having something comes before having none of it.
    """
    ordered = [name for _, name in choices(names)]
    values: dict[str, str] = {}
    for name in sorted(ordered, key=lambda name: name.endswith("=none")):
        if "=" in name and ":" not in name:
            values.setdefault(name.partition("=")[0], name)
    return (sorted(values.values()) or ordered)[:count]
