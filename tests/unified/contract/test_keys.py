"""Keys of kept results: they change with everything that a result depends on, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backbones.stylegan.backbone import StyleGAN3
from inversion.methods.optimize import Optimize
from unified.contract.keys import digest, recipe_settings
from unified.contract.recipe import recipes


def test_equal_values_have_equal_keys_whatever_their_order() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({1, 2}) == digest({2, 1})
    assert digest("ab", "c") != digest("a", "bc") and digest(b"1") != digest("1") and digest(1) != digest(1.0)


@pytest.mark.parametrize("change", [{"lr": 0.123}, {"steps": 7}])
def test_a_changed_setting_of_a_stage_changes_the_key(change: dict[str, Any]) -> None:
    recipe = recipes.get("image2stylegan")
    stage = recipe.stages[0]
    assert isinstance(stage.method, Optimize)
    other = replace(recipe, stages=(replace(stage, method=replace(stage.method, **change)), *recipe.stages[1:]))
    one, two = (digest(recipe_settings(r, StyleGAN3)) for r in (recipe, other))
    assert one != two and one == digest(recipe_settings(replace(recipe), StyleGAN3))
