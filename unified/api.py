"""The functions of `import unified` that say what exists."""

from __future__ import annotations

from dataclasses import dataclass

from unified.contract.backbone import backbones
from unified.contract.matrix import Cell, cells
from unified.contract.recipe import recipes as _recipes
from unified.contract.recipe import runnable
from unified.zoo.registry import zoo


@dataclass(frozen=True)
class ModelEntry:
    """One embedded model: name, family (or "" for an extractor), whether its weights are here, one line."""

    name: str
    family: str
    present: bool
    summary: str


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe: name, families it runs in, its stages in words, citation, one line."""

    name: str
    families: tuple[str, ...]
    stages: str
    cite: str
    summary: str


def models() -> list[ModelEntry]:
    """The embedded models."""
    return [ModelEntry(n, backbones.get(m.backbone).label if m.backbone else "", m.present, m.summary) for n, m in zoo]


def families() -> list[str]:
    """Labels of the families that backbones belong to."""
    return sorted({cls.label for _, cls in backbones})


def recipes(family: str | None = None) -> list[RecipeEntry]:
    """The registered recipes, all or those that run on a backbone of `family`. Raises UserError if unknown."""
    from unified.errors import UserError

    if family is not None and family not in families():
        raise UserError(f"There is no family {family!r}; there are {', '.join(families())}.")
    where: dict[str, set[str]] = {name: set() for name in _recipes.names()}
    for _, cls in backbones:
        for name in runnable(cls):
            where[name].add(cls.label)
    return [
        RecipeEntry(name, tuple(sorted(where[name])), recipe.describe(), recipe.cite, recipe.summary)
        for name, recipe in _recipes
        if family is None or family in where[name]
    ]


def matrix() -> list[Cell]:
    """Every backbone x space x method: whether it runs, and if not, why."""
    return cells()
