"""Make what a protocol evaluates: every subject inverted by one recipe, every prompt drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.recipe import Recipe
from unified.errors import UserError
from unified.evaluation.subjects import Request
from unified.images import save_images
from unified.inversion import recipe_for

NAME = "<concept>"


def generate_subjects(
    requests: Sequence[Request],
    backbone: Backbone,
    recipe: str | Recipe,
    folder: Path,
    *,
    pictures: int = 4,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write `folder`/SUBJECT/PROMPT/image-000.png and so on, and `folder`/concepts/SUBJECT.safetensors.

    What is there already is kept: call again to go on after an interruption. pictures: for each prompt. sampling: of
    the backbone's sampler.
    Raises UserError before any work if the recipe does not run on the backbone.
    """
    if not requests or pictures < 1:
        raise UserError(f"{len(requests)} subjects and {pictures} pictures were asked for; give at least one of each.")
    chosen = recipe_for(backbone, recipe=recipe)
    for number, request in enumerate(requests, 1):
        places = [folder / request.name / f"{index:02d}" for index in range(len(request.prompts))]
        missing = [index for index, place in enumerate(places) if not place.is_dir()]
        if not missing:
            continue
        say(f"{number} of {len(requests)}: {request.name}")
        concept = _concept(request, backbone, chosen, folder / "concepts" / f"{request.name}.safetensors", seed=seed)
        for index in missing:
            prompt = request.prompts[index].replace("{}", NAME)
            images = backbone.generate(concept, prompt=prompt, n=pictures, seed=seed, sampling=sampling, output="pt")
            save_images(images, places[index])  # all of them or none, so what is there is complete


def _concept(request: Request, backbone: Backbone, recipe: Recipe, path: Path, *, seed: int) -> Concept:
    if path.is_file():
        return Concept.load(path)
    concept = backbone.invert(list(request.references), recipe=recipe, name=NAME, category=request.category, seed=seed)
    if any(stage.get("interrupted") for stage in concept.meta["stages"]):
        raise KeyboardInterrupt
    concept.save(path)
    return concept
