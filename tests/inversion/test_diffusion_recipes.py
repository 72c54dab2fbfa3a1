"""Recipes for diffusion models run as data; their losses, augmentation and distillation are what the papers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inversion.augment import Rescale
from inversion.methods.optimize import Optimize
from inversion.methods.text_residual import AverageResidual
from inversion.objectives.attention_mask import AttentionMask, masked_map_error
from inversion.objectives.error import Error
from inversion.objectives.prior import PriorPreservation, class_pictures
from inversion.objectives.text_meaning import SemanticPreservation, TextPreservation
from inversion.spaces.parameter import TextWeights
from inversion.spaces.text_output import OutputResidual
from inversion.spaces.textual import Word
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert, invert_many

SD = "stable-diffusion"
RUN = [
    "boft",
    "break-a-scene",
    "catversion",
    "classdiffusion",
    "cones2",
    "custom-diffusion",
    "dreambooth",
    "hiper",
    "neti",
    "oft",
    "p-plus",
    "perfusion",
    "personalized-residuals",
    "prospect",
    "svdiff",
]
ONLY_WITH_CROSS_ATTENTION = {"catversion", "neti", "p-plus", "perfusion", "personalized-residuals"}


def masked(count: int = 2) -> Reference:
    reference = pictures(tiny(SD), count)
    masks = torch.zeros_like(reference.images[:, :1])
    masks[:, :, 16:48, 16:48] = 1
    return Reference(reference.images, masks, category="a", name="<me>")


def short(name: str) -> Recipe:
    """The registered recipe with two steps and two pictures of the class."""
    recipe = recipes.get(name).with_overrides(steps=2) if name != "cones2" else recipes.get(name)
    stages = []
    for stage in recipe.stages:
        method = stage.method
        if isinstance(method, Optimize):
            terms = tuple(replace(o, pictures=2) if isinstance(o, PriorPreservation) else o for o in method.objectives)
            method = replace(method, steps=2, objectives=terms)
        stages.append(replace(stage, method=method))
    return replace(recipe, stages=tuple(stages))


@pytest.mark.parametrize("name", ["catversion", "hiper", "neti", "p-plus", "perfusion", "prospect"])
def test_two_concepts_asked_for_at_once_come_out_as_each_alone(name: str) -> None:
    backbone = tiny(SD)
    people = [replace(masked(1), name=f"<person-{number}>", names=(), keys=()) for number in range(2)]
    together = invert_many(backbone, people, short(name), InvertSettings())
    for reference, concept in zip(people, together, strict=True):
        alone = invert(backbone, reference, short(name), InvertSettings())
        for one, other in zip(alone.codes, concept.codes, strict=True):
            for key, value in one.tensors.items():
                torch.testing.assert_close(other.tensors[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RUN)
def test_every_recipe_runs_and_its_concept_is_drawn_as_loaded(name: str, tmp_path) -> None:
    backbone = tiny(SD)
    concept = invert(backbone, masked(), short(name), InvertSettings())
    assert all(bool(torch.isfinite(t).all()) for code in concept.codes for t in code.tensors.values())
    loaded = Concept.load(concept.save(tmp_path / "c"))
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt"}
    drawn = backbone.generate(loaded, **options)
    assert torch.equal(drawn, backbone.generate(concept, **options))
    assert recipes.get(name).cite and recipes.get(name).summary


@pytest.mark.parametrize("name", RUN)
def test_recipes_say_by_their_classes_where_they_run(name: str) -> None:
    recipe = recipes.get(name)
    assert refusal(type(tiny(SD)), recipe.stages) is None
    assert (refusal(type(tiny("flux")), recipe.stages) is not None) is (name in ONLY_WITH_CROSS_ATTENTION)
    assert refusal(type(tiny("stylegan")), recipe.stages) is not None


def test_break_a_scene_needs_masks() -> None:
    with pytest.raises(UserError, match="masks"):
        tiny(SD).invert(pictures(tiny(SD)).images, recipe="break-a-scene", category="a")


# --- prior preservation -------------------------------------------------------------------------------------


def test_prior_pictures_are_the_backbones_own_and_made_once() -> None:
    backbone = tiny(SD)
    made = class_pictures(backbone, "a photo of a a", 3, 0)
    assert made is class_pictures(backbone, "a photo of a a", 3, 0)
    with backbone.bound() as view:
        rng = Random(0).child("class pictures", 0)
        assert torch.equal(made.images, view.sample(Target(prompt="a photo of a a", n=3), rng=rng))


def test_prior_term_is_the_error_on_class_pictures_under_the_changed_view() -> None:
    backbone, reference = tiny(SD), pictures(tiny(SD), 2)
    term = PriorPreservation(pictures=3, batch=2)
    with backbone.bound() as view, torch.no_grad():
        attempt = view.attempt(reference, rng=Random(1), prompts=["a b"] * 2)
        found = term(view, attempt, [], Step(5, 10))
        rng = Random(0).child("prior", 5)
        batch = class_pictures(backbone, "a photo of a a", 3, 0).pick(sorted(rng.permutation(3)[:2]))
        expected = view.attempt(batch, rng=rng, prompts=["a photo of a a"] * 2).error.flatten(1).mean()
    assert found.shape == (2,) and torch.allclose(found, expected.expand(2))


# --- attention ----------------------------------------------------------------------------------------------


def test_a_map_like_its_mask_costs_nothing() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    small = torch.zeros(4, 4)
    small[:, :2] = 0.3
    assert masked_map_error([small], mask).item() == 0.0
    assert masked_map_error([small.flip(1)], mask).item() == 1.0
    assert masked_map_error([torch.full((4, 4), 0.2)], mask).item() == pytest.approx(0.5)


def test_optimising_the_attention_term_draws_the_words_attention_into_the_mask() -> None:
    backbone, reference = tiny(SD), masked()
    plan = Recipe("t", (Stage((Word(),), Optimize(steps=40, lr=0.1, objectives=(AttentionMask(weight=1.0),))),), "", "")
    losses = invert(backbone, reference, plan, InvertSettings()).meta["stages"][0]["losses"]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


# --- text ---------------------------------------------------------------------------------------------------


def tuned_encoder(shift: torch.Tensor) -> Concept:
    """The last norm's bias moved: every output of the text encoder moves by `shift`."""
    backbone = tiny(SD)
    with backbone.bound() as view:
        code = TextWeights().initial(view, pictures(backbone), rng=Random(0))
    key = next(k for k in code.tensors if k.endswith("final_layer_norm.bias"))
    code.tensors[key] = code.tensors[key] + shift
    return Concept([code], name="<me>", carrier="a", category="a")


def test_text_preservation_counts_all_tokens_but_the_class_words() -> None:
    backbone = tiny(SD)
    term, values = TextPreservation(), []
    for shift in (torch.zeros(8), torch.full((8,), 0.5)):
        with backbone.bound(tuned_encoder(shift)) as view, torch.no_grad():
            attempt = view.attempt(pictures(backbone, 2), rng=Random(0), prompts=["a"] * 2)
            values.append(term(view, attempt, [], Step(0, 1)))
    assert torch.equal(values[0], torch.zeros(2))
    assert torch.allclose(values[1], torch.full((2,), 0.25), atol=1e-5)


def test_semantic_preservation_is_zero_for_the_class_itself() -> None:
    backbone = tiny(SD)
    term, values = SemanticPreservation(template="photo {}"), []
    with backbone.bound() as view:
        same = Word(initial_text="a").initial(view, pictures(backbone), rng=Random(0))
    for code in (same, same.map(lambda t: t + torch.linspace(-1, 1, 8))):
        with backbone.bound(Concept([code], name="a")) as view, torch.no_grad():
            # The name itself is the class word here, "photo a" against "photo a a" would differ.
            attempt = view.attempt(replace(pictures(backbone, 1), name="a a", names=()), rng=Random(0), prompts=["a"])
            values.append(float(term(view, attempt, [], Step(0, 1))))
    assert values[0] == pytest.approx(0.0, abs=1e-5) and values[1] > 1e-3


def test_the_average_residual_is_the_planted_one_and_the_encoder_is_dropped() -> None:
    backbone = tiny(SD)
    shift = torch.linspace(-1, 1, 8)

    class Planted(Optimize):
        """Stands for tuning: returns the planted encoder."""

        def invert(self, job, spaces):
            return [tuned_encoder(shift).codes for _ in job.members]

    plan = Recipe(
        "t", (Stage((TextWeights(),), Planted()), Stage((OutputResidual(),), AverageResidual())), "", "", carrier="a"
    )
    concept = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    assert [code.space for code in concept.codes] == ["cones2"]
    assert torch.allclose(concept.codes[0].tensors["text_encoder"], shift, atol=1e-5)
    with pytest.raises(UserError, match="text-weights > cones2"):
        backbone.invert(pictures(backbone).images, space="cones2", method="average-residual", category="a")
    with pytest.raises(UserError, match="'cones2' alone"):
        backbone.invert(pictures(backbone).images, space="word", method="average-residual", category="a")


# --- augmentation -------------------------------------------------------------------------------------------


def test_rescaled_pictures_lie_where_their_mask_is_and_prompts_say_so() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 3, 30, 30, generator=generator) * 0.2 + 0.8
    found, prompts = Rescale()(Reference(images), ["b"] * 60, rng=Random(0))
    assert found.images.shape == images.shape and found.masks is not None
    kinds = {"far": 0, "same": 0, "close": 0}
    for image, mask, prompt in zip(found.images, found.masks, prompts, strict=True):
        inside = mask[0] > 0.99
        assert torch.equal(
            image[:, ~inside & (mask[0] < 0.01)], torch.full_like(image[:, ~inside & (mask[0] < 0.01)], 0.5)
        )
        assert bool((image[:, inside] > 0.7).all())
        side = float(mask.mean()) ** 0.5
        if prompt.startswith(("a far away ", "a very small ")):
            assert 0.3 < side < 0.62
            kinds["far"] += 1
        elif prompt.startswith(("zoomed in ", "close up ")):
            assert side == 1.0
            kinds["close"] += 1
        else:
            assert prompt == "b" and side > 0.58
            kinds["same"] += 1
    assert all(number > 8 for number in kinds.values())
    again, _ = Rescale()(Reference(images[:3]), ["b"] * 3, rng=Random(0))
    assert torch.equal(again.images, found.images[:3])


def test_augmented_pictures_are_explained_anew_each_step() -> None:
    """Latents are remembered for pictures that stay the same; augmented ones must not be."""
    backbone = tiny(SD)
    seen = []

    class Keep(Error):
        def __call__(self, view, attempt, codes, step):
            seen.append(attempt.reference.images)
            return super().__call__(view, attempt, codes, step)

    method = Optimize(steps=3, objectives=(Keep(),), augment=Rescale())
    concept = invert(backbone, masked(), Recipe("t", (Stage((Word(),), method),), "", ""), InvertSettings())
    assert not torch.equal(seen[0], seen[1]) and len(seen) == 3
    assert concept.meta["stages"][0]["method"]["augment"]["class"] == "Rescale"
