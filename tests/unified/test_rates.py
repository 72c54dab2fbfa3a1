"""Learning rates: a recipe's are the published ones, an embedded model has its own where those are too small."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tiny.families import tiny
from unified.contract.backbone import Backbone
from unified.contract.recipe import recipes
from unified.inversion import recipe_for
from unified.zoo.registry import zoo


@pytest.fixture
def backbone() -> Backbone:
    found = tiny("stable-diffusion")
    found.rates = {"dreambooth": 0.5, "break-a-scene": (0.25, 0.125)}
    return found


def rates(recipe: Any) -> list[float]:
    return [stage.method.lr for stage in recipe.stages if hasattr(stage.method, "lr")]


def test_a_model_s_own_rates_are_those_of_recipes_asked_for_by_name(backbone: Backbone) -> None:
    assert rates(recipe_for(backbone, recipe="dreambooth")) == [0.5]
    assert rates(recipe_for(backbone, recipe="break-a-scene")) == [0.25, 0.125]
    assert rates(recipe_for(backbone, recipe="custom-diffusion")) == rates(recipes.get("custom-diffusion"))
    assert recipes.get("dreambooth").stages[0].method.lr == 5e-6


def test_what_is_asked_for_comes_first(backbone: Backbone) -> None:
    assert rates(recipe_for(backbone, recipe="dreambooth", lr=1e-4)) == [1e-4]
    assert rates(recipe_for(backbone, recipe=recipes.get("dreambooth"))) == [5e-6]


def test_embedded_models_name_recipes_that_there_are() -> None:
    named = [(model, name, lr) for _, model in zoo for name, lr in model.rates.items()]
    assert named
    for model, name, lr in named:
        changed = recipes.get(name).with_overrides(lr=lr)
        assert rates(changed) != rates(recipes.get(name)), (model.name, name)
