"""From concepts and a target to pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme, schemes
from unified.contract.target import Target
from unified.errors import UserError


def generate(
    backbone: Backbone,
    concepts: Sequence[Concept],
    target: Target,
    *,
    seed: int = 0,
    scheme: str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures [n,3,H,W] in 0..1. Picture i depends on the seed and i only.

    Raises UserError if a concept is of another backbone, the prompt lacks a concept's name, or nothing on
    this backbone can do what is asked.
    """
    for concept in concepts:
        backbone.accept(concept)
        if target.prompt and concept.name not in target.prompt:
            raise UserError(
                f"The prompt {target.prompt!r} does not say where the concept goes: write {concept.name} in it,"
                f" for example 'a portrait of {concept.name}'."
            )
    defaults: dict[str, Any] = {}
    for concept in concepts:
        defaults |= concept.meta.get("sampling", {})
    target = Target(
        prompt=target.prompt,
        edits=target.edits,
        n=target.n,
        negative_prompt=target.negative_prompt,
        sampling={**defaults, **target.sampling},
    )
    preferred = [name for c in concepts if (name := c.meta.get("scheme"))]
    if scheme is not None:
        chosen = schemes.get(scheme)
        if not target.asked() <= chosen.reads:
            raise UserError(
                f"The scheme {scheme!r} does not read {', '.join(sorted(target.asked() - chosen.reads))};"
                f" it reads {', '.join(sorted(chosen.reads)) or 'nothing'}."
            )
    else:
        chosen = choose_scheme(backbone, concepts, target, preferred=preferred)
    return chosen.generate(
        backbone, concepts, target, rng=Random(seed).child("generate"), progress=progress or Silent()
    )


def sampling_changes(**changes: Any) -> Mapping[str, Any]:
    """The settings that were given (not None)."""
    return {key: value for key, value in changes.items() if value is not None}
