"""What results of `unified evaluate avatarbench` are kept under."""

from dataclasses import dataclass, field, make_dataclass

from inversion.methods.optimize import Optimize
from unified.cli.measuring import described
from unified.contract.recipe import recipes


def test_every_recipe_is_described_alike_in_every_process_and_apart_from_others() -> None:
    said = {name: described((recipe.stages, recipe.carrier, dict(recipe.sampling))) for name, recipe in recipes}
    assert not any(" at 0x" in text for text in said.values())
    assert len(set(said.values())) > 0.9 * len(said)  # some recipes differ in their scheme alone


def test_a_changed_setting_is_seen_and_a_new_one_is_not() -> None:
    recipe = recipes.get("kv-prefix")
    assert described(recipe.stages) != described(recipe.with_overrides(lr=2e-2).stages)
    assert described(Optimize(steps=200)) == described(Optimize()) == "Optimize()"

    before = make_dataclass("Method", [("steps", int, 3)])
    after = make_dataclass("Method", [("steps", int, 3), ("names", tuple, field(default_factory=tuple))])
    assert described(before(steps=5)) == described(after(steps=5)) == "Method(steps=5)"


def test_sets_are_described_in_order() -> None:
    @dataclass(frozen=True)
    class Shown:
        pictures: frozenset[int] = frozenset()

    assert described(Shown(frozenset({30, 1, 17}))) == "Shown(pictures=(1, 17, 30))"
