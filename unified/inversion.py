"""From pictures to a concept: the stages of a recipe, one after the other."""

from __future__ import annotations

import base64
import dataclasses
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified.concept_file import versions
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.method import Job, methods
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, check, recipes
from unified.contract.reference import Reference
from unified.contract.space import parse_spaces
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
    lr: float | Sequence[float] | None = None,
) -> Recipe:
    """The recipe that these arguments name: a registered one, a Recipe, or stages given as `space` and `method`.

    space: stages joined by '>', spaces of one stage by '&' ("w > weights"). Raises UserError, before any
    work, if it cannot run on this backbone, naming what can.
    """
    if recipe is not None and (space is not None or method is not None):
        raise UserError("Both a recipe and a space or method were given: a recipe brings its own, give one or the other.")
    if space is not None:
        cls = methods.get(method or "optimize")
        stages = tuple(Stage(parse_spaces(part), cls()) for part in space.split(">"))
        chosen = Recipe(name=f"{space} by {method or 'optimize'}", stages=stages, scheme="", cite="")
    elif method is not None:
        raise UserError(f"method={method!r} was given without a space: name the space it shall fill (space='w+').")
    elif isinstance(recipe, Recipe):
        chosen = recipe
    else:
        chosen = recipes.get(recipe or backbone.default_recipe)
    check(type(backbone), chosen, id=backbone.id)
    return chosen.with_overrides(steps=steps, lr=lr)


def invert(backbone: Backbone, reference: Reference, recipe: Recipe, settings: InvertSettings) -> Concept:
    """Run the recipe's stages on the reference's pictures; returns the concept with its provenance.

    An interrupted stage keeps what it reached; later stages are then left out, and the concept says so.
    """
    for need in sorted(recipe.requires):
        if not getattr(reference, need):
            raise UserError(f"The recipe {recipe.name!r} needs the pictures' {need}, and none was given: pass {need}=...")
    carrier = recipe.carrier.replace("{category}", reference.category)
    job = Job(
        backbone=backbone,
        reference=reference,
        rng=Random(settings.seed).child("invert"),
        carrier=carrier,
        progress=settings.progress,
    )
    log: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.stages):
        spaces = stage.resolved()
        job.label = f"{recipe.name}: {' & '.join(s.name for s in spaces)}"
        job.log = {}
        job.rng = Random(settings.seed).child("invert", number)
        if settings.checkpoints is not None:
            job.checkpoint = settings.checkpoints / f"stage-{number}.pt"
        begin = time.monotonic()
        with PeakMemory() as memory:
            codes = stage.method.invert(job, spaces)
        # Plain layout: a convolution rounds differently on other strides, and a loaded concept has plain ones.
        job.earlier = [*job.earlier, *(c.map(lambda t: t.detach().contiguous()) for c in codes)]
        log.append(
            {
                "spaces": [{"name": s.name, **s.settings()} for s in spaces],
                "method": {"name": stage.method.name, **_plain(stage.method)},
                "seconds": round(time.monotonic() - begin, 3),
                "peak_mebibytes": round(memory.peak_mebibytes),
                **job.log,
            }
        )
        if job.log.get("interrupted"):
            break
    return Concept(
        codes=job.earlier,
        name=reference.name,
        carrier=carrier,
        category=reference.category,
        backbone=backbone.id,
        fingerprint=backbone.fingerprint,
        meta={
            "recipe": recipe.name,
            "scheme": recipe.scheme,
            "sampling": dict(recipe.sampling),
            "seed": settings.seed,
            "pictures": len(reference),
            "stages": log,
            "versions": versions(),
            "thumbnail": thumbnail(reference),
        },
    )


def thumbnail(reference: Reference) -> str:
    """The first picture as a small PNG in base64."""
    picture = to_pil(reference.images[:1])[0]
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as JSON values."""
    return {f.name: _json(getattr(value, f.name)) for f in dataclasses.fields(value)}


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **_plain(value)}
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
