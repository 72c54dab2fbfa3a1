"""What is compared: a backbone with a recipe, or the backbone prompted with the category alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unified.contract.backbone import Backbone, backbones
from unified.contract.recipe import Recipe, check, recipes
from unified.errors import UserError
from unified.zoo.registry import zoo

#: In place of a recipe: no inversion, the category stands where the concept would.
CATEGORY = "category"


@dataclass(frozen=True)
class Run:
    """One column of a comparison.

    model: an embedded model's name, a path, a hub id, or a backbone. recipe: a registered name, a Recipe,
    "" for the backbone's own default, or "category" for the baseline without inversion.
    steps: overrides the recipe's, one value or one per stage. sampling: settings of the backbone's sampler.
    label: heading; default "model:recipe". scheme, scheme_settings: how prompts are answered; default: what fits.
    """

    model: str | Path | Backbone
    recipe: str | Recipe = ""
    steps: int | Sequence[int] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    scheme: str | None = None
    scheme_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        return self.recipe == CATEGORY

    @property
    def model_id(self) -> str:
        return self.model.id if isinstance(self.model, Backbone) else str(self.model)

    @property
    def title(self) -> str:
        recipe = self.recipe.name if isinstance(self.recipe, Recipe) else self.recipe
        return self.label or (f"{self.model_id}:{recipe}" if recipe else self.model_id)

    @property
    def slug(self) -> str:
        """The title as a file name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-.")

    def backbone_class(self) -> type[Backbone] | None:
        """The backbone's class, if it is known without loading anything."""
        if isinstance(self.model, Backbone):
            return type(self.model)
        name = str(self.model)
        if name in zoo and zoo.get(name).backbone:
            return backbones.get(zoo.get(name).backbone)
        return None


def parse_run(run: str | Run) -> Run:
    """'avatars/stylegan2:pti' -> a Run; 'avatars/stylegan2' takes the backbone's default recipe."""
    if isinstance(run, Run):
        return run
    model, colon, recipe = run.rpartition(":")
    if not colon:
        model, recipe = run, ""
    if not model:
        raise UserError(f"The run {run!r} names no model: write model:recipe, such as 'avatars/stylegan2:pti'.")
    return Run(model, recipe)


def parse_runs(runs: Sequence[str | Run]) -> list[Run]:
    """All runs, checked as far as that goes without loading a model.

    Raises UserError for no run, two of one title, an unknown recipe (with the nearest names), or a recipe
    that cannot run on the model's family (with those that can).
    """
    parsed = [parse_run(run) for run in runs]
    if not parsed:
        raise UserError("There is no run to compare: give at least one, such as 'avatars/stylegan2:pti'.")
    slugs = [run.slug for run in parsed]
    for run in parsed:
        if slugs.count(run.slug) > 1:
            raise UserError(f"Two runs are both named {run.title!r}: give them different labels, Run(..., label=...).")
        if isinstance(run.recipe, str) and run.recipe and not run.is_baseline:
            recipes.get(run.recipe)
        cls = run.backbone_class()
        if cls is not None and not run.is_baseline:
            check(cls, chosen_recipe(run, cls), id=run.model_id)
    return parsed


def with_steps(run: Run, steps: int) -> Run:
    """The run with the steps of its recipe overridden, if it does not set its own and the recipe has steps."""
    if run.steps is not None or run.is_baseline:
        return run
    recipe: str | Recipe | None = run.recipe
    if isinstance(recipe, str):
        cls = run.backbone_class()
        name = recipe or (cls.default_recipe if cls is not None else "")
        recipe = recipes.get(name) if name else None
    if recipe is not None and not any(hasattr(stage.method, "steps") for stage in recipe.stages):
        return run
    return replace(run, steps=steps)


def chosen_recipe(run: Run, backbone: type[Backbone]) -> Recipe:
    """The run's recipe with its overrides. Not for a baseline."""
    recipe = run.recipe
    if isinstance(recipe, str):
        recipe = recipes.get(recipe or backbone.default_recipe)
    return recipe.with_overrides(steps=run.steps)
