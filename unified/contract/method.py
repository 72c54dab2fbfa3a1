"""How to get from a reference to codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.reference import Reference, join
from unified.contract.registry import Registry
from unified.contract.space import Space
from unified.contract.view import View


@dataclass
class Member:
    """One concept of a job: its pictures, the codes that earlier stages found, the text that carries its name.

    others: of several concepts as one, the names of all, each with the text that carries it.
    """

    reference: Reference
    earlier: list[Code] = field(default_factory=list)
    carrier: str = ""
    others: Mapping[str, str] = field(default_factory=dict)

    def concept(self, codes: Sequence[Code] = ()) -> Concept:
        reference = self.reference
        return Concept(
            codes=[*self.earlier, *codes],
            name=reference.name,
            carrier=self.carrier,
            category=reference.category,
            meta={"names": dict(self.others)} if self.others else {},
        )


@dataclass
class Job:
    """One stage of an inversion: the concepts (mostly one), and where to report.

    checkpoint: file that long methods write and resume from, or None. log: what the method wants kept in
    the concepts' provenance (losses, why it stopped).
    """

    backbone: Backbone
    members: list[Member]
    rng: Random
    progress: Progress = field(default_factory=Silent)
    checkpoint: Path | None = None
    label: str = ""
    log: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def reference(self) -> Reference:
        """The pictures of all members, one after the other."""
        return join([member.reference for member in self.members])

    @property
    def rows(self) -> list[range]:
        """Which rows of `reference` belong to each member."""
        found, start = [], 0
        for member in self.members:
            found.append(range(start, start + len(member.reference)))
            start += len(member.reference)
        return found

    @contextmanager
    def open(self, codes: Sequence[Sequence[Code]] = ()) -> Iterator[View]:
        """A view with every member's earlier codes bound, and `codes` (one list for each member) if given."""
        new = codes or [()] * len(self.members)
        concepts = [member.concept(own) for member, own in zip(self.members, new, strict=True)]
        with self.backbone.bound(*concepts) as view:
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
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        """For each member of the job one code for each space. May stop early; says so in `job.log['stopped']`."""


methods: Registry[type[Method]] = Registry("method")
