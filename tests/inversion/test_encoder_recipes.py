"""Recipes of learning-based and hybrid inversion, with random encoders into the tiny generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inversion.methods.learned import Learned
from inversion.objectives.in_domain import InDomain
from inversion.spaces.style import WPlus
from tests.tiny.encoders import published, style_inverter
from tests.tiny.families import pictures, tiny
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import recipe_refusal, recipes, runnable
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert, invert_many, recipe_for
from unified.loading import load
from unified.picture_encoders import encoder_of


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A generator with an e4e of its own."""
    return load(published(tmp_path_factory.mktemp("e4e") / "a.pt", "e4e", style_inverter("e4e")))


def test_recipes_run_on_generators_with_styles_only() -> None:
    names = {"psp", "e4e", "restyle-psp", "restyle-e4e", "e4e-pti", "e4e-optimize", "idinvert"}
    assert names <= set(runnable(type(tiny("stylegan")))) and not names & set(runnable(type(tiny("flux"))))
    assert all(recipes.get(name).cite for name in names)


def test_an_encoder_fills_its_own_spaces_only() -> None:
    cls = type(tiny("stylegan"))
    with pytest.raises(UserError, match="the encoder 'e4e' fills 'w\\+'"):
        recipe_for(tiny("stylegan"), space="w", method="learned")
    assert recipe_refusal(cls, recipes.get("e4e")) is None
    assert Learned(fills=("w", "f")).refuse(cls, ()) is not None


def test_pictures_do_not_depend_on_their_batch(gan: Backbone) -> None:
    first, second = pictures(gan, 2, seed=1), Reference(pictures(gan, 3, seed=2).images, category="a", name="<you>")
    together = invert_many(gan, [first, second], recipes.get("e4e"), InvertSettings())
    alone = invert(gan, second, recipes.get("e4e"), InvertSettings())
    assert [c.pictures for c in together] == [2, 3]
    assert torch.allclose(together[1].codes[0].tensors["w"], alone.codes[0].tensors["w"], atol=1e-5)


def test_a_search_begins_where_the_encoder_ended(gan: Backbone) -> None:
    reference = pictures(gan, 2)
    start = invert(gan, reference, recipes.get("e4e"), InvertSettings())
    for steps in (0, 15):
        found = invert(gan, reference, recipes.get("e4e-optimize").with_overrides(steps=steps), InvertSettings())
        w = [code.tensors["w"] for code in found.codes]
        assert torch.equal(w[0], start.codes[0].tensors["w"])
        assert torch.equal(w[1], w[0]) == (steps == 0)
    assert _error(gan, found, reference) < _error(gan, start, reference)


def test_weights_are_tuned_around_the_pivot_of_the_encoder(gan: Backbone) -> None:
    reference = pictures(gan, 1)
    start = invert(gan, reference, recipes.get("e4e"), InvertSettings())
    tuned = invert(gan, reference, recipes.get("e4e-pti").with_overrides(steps=15, lr=5e-3), InvertSettings())
    assert [code.space for code in tuned.codes] == ["w+", "weights"]
    assert torch.equal(tuned.codes[0].tensors["w"], start.codes[0].tensors["w"])
    assert _error(gan, tuned, reference) < _error(gan, start, reference)


def test_stages_may_have_methods_of_their_own(gan: Backbone) -> None:
    """encoder > w+ > weights, without a recipe."""
    chosen = recipe_for(gan, space="w+ > w+ > weights", method="learned > optimize > optimize", steps=2)
    assert chosen.describe() == "w+ (learned) > w+ (optimize) > weights (optimize)"
    concept = invert(gan, pictures(gan, 1), chosen, InvertSettings())
    assert [code.space for code in concept.codes] == ["w+", "w+", "weights"]
    with pytest.raises(UserError, match="names 2 methods for the 3 stages"):
        recipe_for(gan, space="w+ > w+ > weights", method="learned > optimize")


def _error(gan: Backbone, concept: Concept, reference: Reference) -> float:
    with torch.no_grad(), gan.bound(concept) as view:
        return float(view.attempt(reference, rng=Random(0)).error.mean())


def test_a_file_of_the_users_own_is_taken(tmp_path: Path) -> None:
    plain = tiny("stylegan")
    path = published(tmp_path / "psp.pt", "psp", style_inverter("psp"))
    recipe = recipes.get("psp")
    named = replace(recipe, stages=(replace(recipe.stages[0], method=Learned("psp", weights=str(path))),))
    own = invert(load(path), pictures(plain, 1), recipe, InvertSettings())
    other = invert(plain, pictures(plain, 1), named, InvertSettings())
    assert torch.equal(own.codes[0].tensors["w"], other.codes[0].tensors["w"])


def test_in_domain_is_nothing_where_the_encoder_reads_back_the_same(tmp_path: Path) -> None:
    """Equation 4 by hand on any w; and 0 for a w = E(G(w)), made by an encoder that always says its mean."""
    gan = load(published(tmp_path / "psp.pt", "psp", style_inverter("psp")))
    encoder = encoder_of(gan, "psp")
    reference = pictures(gan, 2)
    w = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(3))

    def value(w: torch.Tensor) -> torch.Tensor:
        concept = Concept([WPlus().code({"w": w})])
        with gan.bound(concept) as view:
            return InDomain()(view, view.attempt(reference, rng=Random(0)), concept.codes, Step(0, 1))

    with torch.no_grad(), gan.bound(Concept([WPlus().code({"w": w})])) as view:
        read = encoder.style_vectors(view, view.attempt(reference, rng=Random(0)).render())
    assert torch.allclose(value(w), (w - read).square().mean((1, 2)), rtol=1e-4)
    with torch.no_grad():
        for style in encoder.encoder.styles:
            style.linear.weight.zero_()
            style.linear.bias.zero_()
    assert torch.equal(value(encoder.latent_avg.repeat(2, 1, 1)), torch.zeros(2))


def test_in_domain_inversion_stays_nearer_to_what_the_encoder_reads(tmp_path: Path) -> None:
    """With the term the encoder reads back more of the code than without it, at a higher error."""
    gan = load(published(tmp_path / "psp.pt", "psp", style_inverter("psp")))
    reference, recipe = pictures(gan, 1), recipes.get("idinvert").with_overrides(steps=30)
    search = recipe.stages[1]
    without = replace(search.method, objectives=search.method.objectives[:2])  # type: ignore[type-var, attr-defined]
    held = invert(gan, reference, recipe, InvertSettings())
    free = invert(
        gan, reference, replace(recipe, stages=(recipe.stages[0], replace(search, method=without))), InvertSettings()
    )

    def away(concept: Concept) -> float:
        with gan.bound(concept) as view:
            read = encoder_of(gan, "psp").style_vectors(view, gan.generate(concept, output="pt"))
        return float((concept.codes[-1].tensors["w"] - read).square().mean())

    assert away(held) < 0.8 * away(free)


def test_in_domain_inversion_needs_its_encoder() -> None:
    gan = tiny("stylegan")
    with pytest.raises(UserError, match="comes with no encoder 'psp'"):
        invert(gan, pictures(gan, 1), recipes.get("idinvert"), InvertSettings())
