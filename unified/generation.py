"""From concepts and a target to pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.recipe import verb
from unified.contract.scheme import EditScheme, Scheme, choose_scheme, schemes, with_settings
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.errors import UserError
from unified.sampling import own_sampling


def generate(
    backbone: Backbone,
    concepts: Sequence[Concept],
    target: Target,
    *,
    seed: int = 0,
    scheme: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures [n,3,H,W] in 0..1. Picture i depends on the seed and i only. settings: of the scheme, by name.

    Raises UserError if a concept is of another backbone, the prompt lacks a concept's name, or nothing on
    this backbone can do what is asked.
    """
    chosen, target = _prepared(backbone, concepts, target, scheme)
    chosen = with_settings(chosen, settings or {})
    return chosen.generate(
        backbone, concepts, target, rng=Random(seed).child("generate"), progress=progress or Silent()
    )


def edit(
    backbone: Backbone,
    concepts: Sequence[Concept],
    target: Target,
    *,
    seed: int = 0,
    scheme: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Concept]:
    """The concepts that `generate` samples from with the same arguments, for schemes whose edits change concepts.

    Raises UserError for what `generate` refuses, and for schemes that change how pictures are sampled instead.
    """
    chosen, target = _prepared(backbone, concepts, target, scheme)
    chosen = with_settings(chosen, settings or {})
    if not isinstance(chosen, EditScheme):
        raise UserError(f"The scheme {chosen.name!r} leaves concepts as they are, so there is no edited one to keep.")
    rng = Random(seed).child("generate")
    found = chosen.edited(backbone, concepts, target, rng=rng, progress=progress or Silent())
    return [replace(c, backbone=backbone.id, fingerprint=backbone.fingerprint) for c in found]


def _prepared(
    backbone: Backbone, concepts: Sequence[Concept], target: Target, scheme: str | None
) -> tuple[Scheme, Target]:
    """The scheme that honours the target, and the target with the concepts' own sampling settings."""
    for concept in concepts:
        backbone.accept(concept)
        if target.prompt and not any(name in target.prompt for name in concept.names) and _is_named(concept):
            raise UserError(
                f"The prompt {target.prompt!r} does not say where the concept goes: write {concept.name} in it,"
                f" for example 'a portrait of {concept.name}'."
            )
    target = replace(target, sampling={**own_sampling(concepts), **target.sampling})
    preferred = [name for c in concepts if (name := c.meta.get("scheme"))]
    if scheme is None:
        return choose_scheme(backbone, concepts, target, preferred=preferred), target
    chosen = schemes.get(scheme)
    missing = lacked(backbone, chosen.needs)
    if missing:
        raise UserError(f"The scheme {scheme!r} needs a backbone that {verb(missing)}; {backbone.id} does not.")
    if not target.asked() <= chosen.reads:
        raise UserError(
            f"The scheme {scheme!r} does not read {', '.join(sorted(target.asked() - chosen.reads))};"
            f" it reads {', '.join(sorted(chosen.reads)) or 'nothing'}."
        )
    unsaid = sorted(chosen.wants - target.asked())
    if unsaid:
        raise UserError(f"The scheme {scheme!r} needs a {' and a '.join(unsaid)}, and none was given.")
    reason = chosen.refuse(type(backbone), concepts)
    if reason is not None:
        raise UserError(f"The scheme {scheme!r} does not work here: {reason}.")
    return chosen, target


def _is_named(concept: Concept) -> bool:
    """Whether a prompt must say where the concept goes: noise is the whole picture and goes nowhere in it."""
    return any(space_of(code).kind is not Kind.NOISE for code in concept.codes)


def sampling_changes(**changes: Any) -> Mapping[str, Any]:
    """The settings that were given (not None)."""
    return {key: value for key, value in changes.items() if value is not None}
