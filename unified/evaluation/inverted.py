"""The held-out people as concepts of one recipe, kept in a folder, so that each is inverted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from unified.avatars.benchmark import Person
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.keys import digest, recipe_settings
from unified.contract.progress import Progress, Silent
from unified.contract.recipe import Recipe
from unified.contract.reference import Reference
from unified.inversion import InvertSettings, invert_many, recipe_for


def reference_of(backbone: Backbone, person: Person, recipe: Recipe, *, pictures: int) -> Reference:
    """The person's first `pictures`, and their masks if the recipe cannot do without."""
    masks = person.masks[:pictures, None].float() if "masks" in recipe.requires else None
    return backbone.reference(person.images[:pictures], name=f"<{person.name}>", masks=masks)


def inverted(
    backbone: Backbone,
    recipe: str,
    people: Sequence[Person],
    folder: Path,
    *,
    steps: int | None = None,
    together: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[Concept]:
    """A concept of the first picture of each person; those that lie in `folder` already are read.

    together: people inverted in one batch, where the recipe can. say: is told of each new file.
    """
    chosen = recipe_for(backbone, recipe=recipe, steps=steps)
    key = digest(backbone.fingerprint, recipe_settings(chosen, type(backbone)), seed)
    folder = folder / f"{recipe}-{key[:12]}"
    files = [folder / f"{person.name}.safetensors" for person in people]
    missing = [place for place, file in enumerate(files) if not file.exists()]
    for start in range(0, len(missing), together):
        part = missing[start : start + together]
        references = [reference_of(backbone, people[place], chosen, pictures=1) for place in part]
        found = invert_many(backbone, references, chosen, InvertSettings(seed=seed, progress=progress or Silent()))
        for place, concept in zip(part, found, strict=True):
            say(str(concept.save(files[place])))
    return [Concept.load(file) for file in files]
