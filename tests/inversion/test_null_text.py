"""Null-text, negative-prompt and direct inversion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inversion.methods.null_text import NullText
from inversion.spaces.noise import StartNoise, Unconditional
from tests.inversion.noise import FAMILIES, SOURCE, by_recipe, root_mean_square, worst
from tests.tiny.families import pictures, tiny
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


@FAMILIES
def test_null_text_beats_ddim_at_guidance(family: str) -> None:
    backbone = tiny(family)
    # A random network hardly listens to its text: longer steps than those for a trained one.
    stage = Stage((StartNoise(), Unconditional()), NullText(steps=3, inner=20, lr=0.1))
    concept = invert(backbone, pictures(backbone, 1), Recipe("test", (stage,), "", ""), InvertSettings())
    plain, reference = by_recipe(backbone, "ddim-inversion", steps=3, count=1)
    guided = Target(prompt=SOURCE, sampling={"guidance": 7.5})
    error = concept.meta["error"]["latents"][0]
    assert error < 0.85 * root_mean_square(backbone, plain, reference, guided)
    # Each step has an embedding of its own, and the first is not the empty prompt's.
    text = concept.codes[1].tensors["text"]
    assert text.shape[:2] == (1, 3) and not torch.equal(text[:, 0], text[:, -1])
    with backbone.bound() as view, torch.no_grad():
        assert not torch.equal(backbone.condition(view, [""])["text"][0], text[0, 0])


def test_null_text_embeddings_do_not_depend_on_the_company() -> None:
    backbone = tiny("stable-diffusion", torch.float64)
    recipe = recipes.get("null-text").with_overrides(steps=2)
    both = pictures(backbone, 2)
    first = invert(backbone, Reference(both.images[:1], category="a"), recipe, InvertSettings())
    together = invert(backbone, both, recipe, InvertSettings())
    assert torch.allclose(first.codes[1].tensors["text"], together.codes[1].tensors["text"][:1], atol=1e-7)


def test_null_text_refuses_another_guidance_and_a_negative_prompt() -> None:
    backbone = tiny("stable-diffusion")
    concept, _ = by_recipe(backbone, "null-text", steps=2, count=1)
    with pytest.raises(UserError, match="guidance=3 was asked for, but the code in 'unconditional'"):
        backbone.generate(concept, prompt="x", sampling={"guidance": 3})
    with pytest.raises(UserError, match="negative prompt"):
        backbone.generate(concept, prompt="x", negative_prompt="y")


def test_null_text_keeps_what_it_reached_when_interrupted() -> None:
    class StopAtTwo:
        def start(self, label: str, total: int) -> None:
            self.label = label

        def advance(self, done: int, *, loss: float | None = None) -> None:
            if done == 2 and not self.label.endswith("pivots"):
                raise KeyboardInterrupt

        def finish(self) -> None:
            pass

    backbone = tiny("stable-diffusion")
    recipe = replace(recipes.get("null-text").with_overrides(steps=4))
    concept = invert(backbone, pictures(backbone, 1), recipe, InvertSettings(progress=StopAtTwo()))
    assert concept.meta["stages"][0]["interrupted"]
    text = concept.codes[1].tensors["text"]
    assert text.shape[1] == 4 and torch.equal(text[:, 1], text[:, 3])


@FAMILIES
def test_negative_prompt_inversion_reconstructs_as_ddim_does_at_any_guidance(family: str) -> None:
    backbone = tiny(family, torch.float64)
    concept, reference = by_recipe(backbone, "negative-prompt-inversion", steps=6)
    plain, _ = by_recipe(backbone, "ddim-inversion", steps=6)
    expected = worst(backbone, plain, reference)
    for guidance in (2.0, 7.5):
        target = Target(prompt=SOURCE, sampling={"guidance": guidance})
        assert worst(backbone, concept, reference, target) == pytest.approx(expected, rel=1e-6)


@FAMILIES
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_direct_inversion_is_exact_on_the_source_branch_alone(family: str, dtype: torch.dtype, bound: float) -> None:
    from unified.denoising.sampler import sample_pair

    backbone = tiny(family, dtype)
    concept, reference = by_recipe(backbone, "direct-inversion", steps=6)
    assert worst(backbone, concept, reference) <= bound
    target = Target(prompt="x", sampling={"guidance": 7.5})
    with backbone.bound(concept) as view, torch.no_grad():
        latents = backbone.encode(view, reference.images)
        source, edited = sample_pair(view, target, rng=Random(0))
        alone = backbone.sample_latents(view, target, rng=Random(0))
    # To rounding: the pair goes through the network in a larger batch, which a random network amplifies.
    assert (source - latents).abs().max() <= 100 * bound
    assert torch.allclose(edited, alone, atol=1e-3)
    start = concept.with_codes(concept.codes[:1])
    with backbone.bound(start) as view:
        assert torch.equal(backbone.sample_latents(view, target, rng=Random(0)), alone)
