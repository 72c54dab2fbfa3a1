"""What the Edit page's sliders do: a concept moved along directions and drawn again, while one waits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from unified.app.html import data_address
from unified.app.job import Job, State
from unified.app.works import CONCEPT, Workshop
from unified.comparison.store import png
from unified.contract.backbone import Backbone, Renders, can
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
        """The directions known for the job's model: name -> one line about it; empty where there are none."""
        return directions_of(self.backbone(job)) if self.is_quick(job) else {}

    def redraw(self, job: Job, edits: Mapping[str, float]) -> str:
        """The first picture with these edits, as a data address. Zeros leave it as it was inverted."""
        moved = {name: float(strength) for name, strength in edits.items() if strength}
        image = self.backbone(job).generate(self.concept(job), edits=moved, n=1, output="pt", progress=Silent())
        return data_address(png(image.float()))
