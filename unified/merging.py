"""Several stored concepts into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.recipe import verb
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.sampling import own_sampling


class Merge(ABC):
    """A way of merging. Subclasses are frozen dataclasses whose fields are its settings.

    needs: protocols of the backbone. summary: one line; cite: the paper.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type, ...]] = ()
    summary: ClassVar[str]
    cite: ClassVar[str]

    @abstractmethod
    def refuse(self, concepts: Sequence[Concept]) -> str | None:
        """Why these concepts cannot be merged so, and which could; None if they can."""

    @abstractmethod
    def merged(self, backbone: Backbone, concepts: Sequence[Concept], *, rng: Random, progress: Progress) -> Concept:
        """One concept that stands for all of them."""


merges: Registry[Merge] = Registry("way of merging")


def merge(
    backbone: Backbone, concepts: Sequence[Concept], by: str, *, seed: int = 0, progress: Progress | None = None
) -> Concept:
    """One concept of several, by a registered way of merging. The names of all stay usable in prompts.

    Raises UserError for fewer than two concepts, equal names, concepts of another backbone, and where the way
    does not fit the concepts or the backbone.
    """
    way = merges.get(by)
    missing = lacked(backbone, way.needs)
    if missing:
        raise UserError(f"Merging by {by!r} needs a backbone that {verb(missing)}; {backbone.id} does not.")
    names = [name for concept in concepts for name in concept.names]
    if len(concepts) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"{len(concepts)} concepts named {', '.join(names)} were given: merging takes two or more, each under a"
            " name of its own (concept.renamed('<you>'), or --name when inverting)."
        )
    for concept in concepts:
        backbone.accept(concept)
    reason = way.refuse(concepts)
    if reason is not None:
        raise UserError(f"Merging by {by!r} does not work here: {reason}.")
    found = way.merged(backbone, concepts, rng=Random(seed).child("merge"), progress=progress or Silent())
    meta = {**found.meta, "merged": {"by": by, "of": names, "cite": way.cite, "seed": seed}}
    return replace(found, backbone=backbone.id, fingerprint=backbone.fingerprint, meta=meta)


def united(concepts: Sequence[Concept], codes: Sequence[Code]) -> Concept:
    """A concept under the first one's name, with `codes`, that also answers to the names of the others."""
    first = concepts[0]
    names = {name: text for concept in concepts for name, text in concept.names.items() if name != first.name}
    sampling = own_sampling(concepts)
    meta = {"names": names, **({"sampling": sampling} if sampling else {})}
    return Concept(list(codes), first.name, first.carrier, first.category, meta=meta)


def kept(concept: Concept, *, without: Sequence[str], first: bool) -> list[Code]:
    """The codes of a concept in other spaces than `without`, each with the name it stands under."""
    return [
        code if first else replace(code, meta={"name": concept.name, **code.meta})
        for code in concept.codes
        if code.space not in without
    ]


def weighed(code: Code, weight: float) -> Code:
    """A low-rank code with the weight that its concept is bound with in its matrices."""
    return (
        code
        if weight == 1.0
        else code.with_tensors(
            {key: weight * value if key.endswith(".up") else value for key, value in code.tensors.items()}
        )
    )


def codes_in(concept: Concept, space: str) -> list[Code]:
    return [code for code in concept.codes if code.space == space]
