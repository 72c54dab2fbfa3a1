"""How to get from a reference to codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.registry import Registry
from unified.contract.space import Space
from unified.contract.view import View


@dataclass
class Job:
    """One stage of one inversion: the pictures, what earlier stages found, and where to report.

    checkpoint: file that long methods write and resume from, or None. log: what the method wants kept in
    the concept's provenance (losses, why it stopped).
    """

    backbone: Backbone
    reference: Reference
    rng: Random
    earlier: list[Code] = field(default_factory=list)
    carrier: str = ""
    progress: Progress = field(default_factory=Silent)
    checkpoint: Path | None = None
    label: str = ""
    log: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def open(self, codes: Sequence[Code] = ()) -> Iterator[View]:
        """A view with the earlier stages' codes and `codes` bound as one concept."""
        reference = self.reference
        concept = Concept(
            codes=[*self.earlier, *codes],
            name=reference.name,
            carrier=self.carrier,
            category=reference.category,
        )
        with self.backbone.bound(concept) as view:
            yield view


class Method(ABC):
    """A way of inverting. Subclasses are frozen dataclasses whose fields are its settings."""

    name: ClassVar[str]
    needs: ClassVar[tuple[type, ...]] = ()

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        """Why this method cannot work in these spaces of this backbone, and what would; None if it can.

        Judged from classes alone, no weights are loaded. Protocols (`needs`) are checked by the caller.
        """
        return None

    @abstractmethod
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[Code]:
        """One code for each space. May stop early; says so in `job.log['stopped']`."""


methods: Registry[type[Method]] = Registry("method")
