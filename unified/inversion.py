"""From pictures to a concept: the stages of a recipe, one after the other."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.concept_file import versions
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.keys import stage_settings
from unified.contract.kinds import Clash
from unified.contract.method import Job, Member, methods
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.rates import Rates
from unified.contract.recipe import Recipe, Stage, check, recipes
from unified.contract.reference import Reference, join
from unified.contract.space import parse_spaces, space_of
from unified.errors import UserError
from unified.images import to_pil
from unified.memory import PeakMemory

_THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class InvertSettings:
    """How to run an inversion.

    seed: of all random numbers. checkpoints: folder for resuming, or None. progress: what reports.
    """

    seed: int = 0
    checkpoints: Path | None = None
    progress: Progress = field(default_factory=Silent)


def recipe_for(
    backbone: Backbone,
    *,
    recipe: str | Recipe | None = None,
    space: str | None = None,
    method: str | None = None,
    steps: int | Sequence[int] | None = None,
    lr: Rates | None = None,
) -> Recipe:
    """The recipe that these arguments name: a registered one, a Recipe, or stages given as `space` and `method`.

    A registered one has the backbone's own learning rates, if it has any and none were given.

    space: stages joined by '>', spaces of one stage by '&' ("w > weights"). method: one for all stages, or one
    for each, joined likewise ("learned > optimize"). Raises UserError, before any work, if it cannot run on this
    backbone, naming what can.
    """
    if recipe is not None and (space is not None or method is not None):
        raise UserError(
            "Both a recipe and a space or method were given: a recipe brings its own, give one or the other."
        )
    if space is not None:
        parts, names = space.split(">"), [name.strip() for name in (method or "optimize").split(">")]
        if len(names) not in (1, len(parts)):
            raise UserError(
                f"method={method!r} names {len(names)} methods for the {len(parts)} stages of {space!r}: give one for"
                " all, or one per stage joined by '>'."
            )
        by = names if len(names) > 1 else names * len(parts)
        stages = tuple(Stage(parse_spaces(part), methods.get(name)()) for part, name in zip(parts, by, strict=True))
        chosen = Recipe(name=f"{space} by {method or 'optimize'}", stages=stages, scheme="", cite="")
    elif method is not None:
        raise UserError(f"method={method!r} was given without a space: name the space it shall fill (space='w+').")
    elif isinstance(recipe, Recipe):
        chosen = recipe
    else:
        chosen = recipes.get(recipe or backbone.default_recipe)
        lr = backbone.rates.get(chosen.name) if lr is None else lr
    check(type(backbone), chosen, id=backbone.id)
    return chosen.with_overrides(steps=steps, lr=lr)


def invert(backbone: Backbone, reference: Reference, recipe: Recipe, settings: InvertSettings) -> Concept:
    """Run the recipe's stages on the reference's pictures; returns the concept with its provenance.

    An interrupted stage keeps what it reached; later stages are then left out, and the concept says so.
    """
    return invert_many(backbone, [reference], recipe, settings)[0]


def invert_many(
    backbone: Backbone, references: Sequence[Reference], recipe: Recipe, settings: InvertSettings
) -> list[Concept]:
    """Invert several concepts; stages whose codes do not meet run in one batch over all of them.

    Each concept comes out as it would alone (to rounding). Codes per picture and words are batched; changes
    of weights are not, since all pictures would see all of them. Concepts of one batch need different names.
    """
    for reference in references:
        _check_reference(reference, recipe)
    members = [Member(r, carrier=recipe.carrier.replace("{category}", r.category)) for r in references]
    logs: list[list[dict[str, Any]]] = [[] for _ in members]
    for number, stage in enumerate(recipe.stages):
        spaces = stage.resolved(type(backbone))
        together = len(members) == 1 or (
            all(space.clash is Clash.NAMED for space in spaces) and all(not m.earlier for m in members)
        )
        groups = [list(range(len(members)))] if together else [[i] for i in range(len(members))]
        merged = (
            not together
            and all(space.per_picture for space in spaces)
            and all(code.per_picture for m in members for code in m.earlier)
        )
        if merged:
            groups = [list(range(len(members)))]
        interrupted = False
        for group in groups:
            chosen = [members[i] for i in group]
            job = Job(
                backbone=backbone,
                members=[_merge(chosen)] if merged else chosen,
                rng=Random(settings.seed).child("invert", number),
                progress=settings.progress,
                label=f"{recipe.name}: {' & '.join(s.name for s in spaces)}",
                checkpoint=_checkpoint(settings, number, group if len(groups) > 1 else []),
            )
            begin = time.monotonic()
            with PeakMemory() as memory:
                found = stage.method.invert(job, spaces)
            if merged:
                found = _split(found[0], chosen)
            entry = {
                **stage_settings(stage, type(backbone)),
                "seconds": round(time.monotonic() - begin, 3),
                "peak_mebibytes": round(memory.peak_mebibytes),
                "concepts_in_batch": len(group),
                **job.log,
            }
            for i, codes in zip(group, found, strict=True):
                # Plain layout: a convolution rounds differently on other strides; loaded concepts have plain ones.
                members[i].earlier += [code.map(_plain_layout) for code in codes]
                logs[i].append(entry)
            interrupted = interrupted or bool(job.log.get("interrupted"))
            if interrupted:
                break
        if interrupted:
            break
    return [_concept(backbone, m, recipe, settings, log) for m, log in zip(members, logs, strict=True)]


def _check_reference(reference: Reference, recipe: Recipe) -> None:
    for need in sorted(recipe.requires):
        value = getattr(reference, need)
        if value is None or (isinstance(value, str) and not value):
            raise UserError(
                f"The recipe {recipe.name!r} needs the pictures' {need}, and none was given: pass {need}=..."
            )


def _checkpoint(settings: InvertSettings, number: int, group: Sequence[int]) -> Path | None:
    if settings.checkpoints is None:
        return None
    suffix = "".join(f"-{i}" for i in group)
    return settings.checkpoints / f"stage-{number}{suffix}.pt"


def _merge(members: Sequence[Member]) -> Member:
    """Several concepts whose codes are all per picture, as one of all their pictures."""
    earlier = [Code.together(parts) for parts in zip(*(m.earlier for m in members), strict=True)]
    others = {name: text for m in members for name, text in m.concept().names.items()}
    return Member(join([m.reference for m in members]), earlier, members[0].carrier, others)


def _split(codes: Sequence[Code], members: Sequence[Member]) -> list[list[Code]]:
    """The codes of a merged member, each concept its own pictures' rows."""
    found, start = [], 0
    for member in members:
        stop = start + len(member.reference)
        found.append([code.pick(list(range(start, stop))) for code in codes])
        start = stop
    return found


def _concept(
    backbone: Backbone, member: Member, recipe: Recipe, settings: InvertSettings, log: list[dict[str, Any]]
) -> Concept:
    concept = member.concept()
    concept.backbone = backbone.id
    concept.fingerprint = backbone.fingerprint
    concept.meta = {
        "recipe": recipe.name,
        "scheme": recipe.scheme,
        "sampling": dict(recipe.sampling),
        "seed": settings.seed,
        "pictures": len(member.reference),
        "stages": log,
        "versions": versions(),
        "thumbnail": thumbnail(member.reference),
    }
    error = _measured(backbone, concept, member.reference)
    if error:
        concept.meta["error"] = {unit: list(values) for unit, values in error.items()}
    return concept


def _measured(backbone: Backbone, concept: Concept, reference: Reference) -> Mapping[str, list[float]]:
    """How far what the concept gives back is from the pictures, by unit, where its spaces promise them back."""
    try:
        with backbone.bound(concept) as view:
            for code in reversed(concept.codes):
                found = space_of(code).measure(view, code, reference)
                if found:
                    return found
    except KeyboardInterrupt:
        pass  # the concept is complete: it is kept, unmeasured
    return {}


def _plain_layout(value: Tensor) -> Tensor:
    # Not contiguous(): that keeps the odd strides of axes of length one.
    return value.detach().clone(memory_format=torch.contiguous_format)


def thumbnail(reference: Reference) -> str:
    """The first picture as a small PNG in base64."""
    picture = to_pil(reference.images[:1])[0]
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
