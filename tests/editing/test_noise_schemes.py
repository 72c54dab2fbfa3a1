"""FlowEdit, Delta Denoising Score, LEDITS++ and SDEdit: closed forms on Gaussians, and exact reconstruction."""

from __future__ import annotations

import pytest
import torch

from backbones.diffusion.flux import Flux
from backbones.diffusion.stable_diffusion import StableDiffusion
from editing.ledits import attended, largest
from inversion.methods.edit_friendly import EditFriendly
from inversion.spaces.noise import StepNoise
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert

FAMILIES = pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
MEANS = {"": 0.0, "cat": 0.3, "dog": -0.2}
DEVIATION = 0.4


class GaussianFlow(Flux):
    """The exact velocity of data N(mean of the prompt, DEVIATION^2)."""

    def condition(self, view, prompts):
        return {"mean": torch.tensor([MEANS[prompt] for prompt in prompts], dtype=torch.float64)}

    def predict(self, view, latents, time, condition):
        s, mean = time.view(-1, 1, 1, 1).double(), condition["mean"].view(-1, 1, 1, 1)
        variance = (1 - s) ** 2 * DEVIATION**2 + s**2
        rest = latents - (1 - s) * mean
        return rest * (s - (1 - s) * DEVIATION**2) / variance - mean

    def decode(self, view, latents):
        return latents


class GaussianEps(StableDiffusion):
    """The exact eps of data N(mean of the prompt, DEVIATION^2)."""

    def condition(self, view, prompts):
        return {"mean": torch.tensor([MEANS[prompt] for prompt in prompts], dtype=torch.float64)}

    def predict(self, view, latents, time, condition):
        alpha = self.alphas_cumprod[time.long()].view(-1, 1, 1, 1)
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        mean = condition["mean"].view(-1, 1, 1, 1)
        return s * (latents - a * mean) / (a**2 * DEVIATION**2 + s**2)

    def decode(self, view, latents):
        return latents


def by_recipe(backbone: Backbone, name: str, *, steps: int | None = None, count: int = 2) -> Concept:
    return invert(backbone, pictures(backbone, count), recipes.get(name).with_overrides(steps=steps), InvertSettings())


def latents_of(backbone: Backbone, count: int = 2) -> torch.Tensor:
    with backbone.bound() as view, torch.no_grad():
        return backbone.encode(view, pictures(backbone, count).images)


def middle_of(latents: torch.Tensor) -> torch.Tensor:
    """Latents brought near 0.5, so that a clamp to 0..1 leaves them alone."""
    return 0.5 + 0.05 * latents / latents.abs().max()


def gaussian_concept(backbone: Backbone, name: str) -> Concept:
    """A concept of random latents: these backbones decode latents to themselves."""
    latents = torch.randn(2, *backbone.latent_shape(), dtype=torch.float64)
    code = Code("latents", {"latents": middle_of(latents)}, True, {"settings": {}})
    return Concept([code], category="a", meta={"scheme": name})


def test_flow_edit_moves_a_gaussian_by_the_difference_of_the_means() -> None:
    """The difference of the two ODEs' solutions with the same noise is (1 - s) (mean' - mean)."""
    backbone = GaussianFlow("gauss", tiny_diffusion.flux_pipeline(dtype=torch.float64))
    concept = gaussian_concept(backbone, "flow-edit")
    x = concept.codes[0].tensors["latents"]
    target = Target("dog", source="cat", sampling={"steps": 200, "guidance": 3.5, "skip": 0.0})
    edited = generate(backbone, [concept], target)
    # With guidance g the means are g times as far from that of the empty prompt.
    assert torch.allclose(edited, (x + 3.5 * (MEANS["dog"] - MEANS["cat"])).clamp(0, 1), atol=0.02)
    mild = generate(backbone, [concept], target_of("cat", "cat"))
    assert torch.allclose(mild, x, atol=1e-9)


def target_of(prompt: str, source: str) -> Target:
    return Target(prompt, source=source, sampling={"steps": 20, "guidance": 3.5, "skip": 0.0})


def test_delta_denoising_moves_a_gaussian_by_the_difference_of_the_means() -> None:
    backbone = GaussianEps("gauss", tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64))
    concept = gaussian_concept(backbone, "delta-denoising")
    x = concept.codes[0].tensors["latents"]
    edited = generate(backbone, [concept], Target("cat", source="", sampling={"steps": 300, "guidance": 1.0}))
    assert torch.allclose(edited, x + MEANS["cat"], atol=1e-3)
    same = generate(backbone, [concept], Target("cat", source="cat", sampling={"steps": 5}))
    assert torch.allclose(same, x, atol=1e-12)


@FAMILIES
def test_the_same_prompt_leaves_the_picture_alone(family: str) -> None:
    backbone = tiny(family)
    concept = by_recipe(backbone, "delta-denoising")
    plain = backbone.generate(concept, output="pt")
    same = backbone.generate(concept, prompt="a cat", source="a cat", sampling={"steps": 2}, output="pt")
    other = backbone.generate(concept, prompt="a dog", source="a cat", sampling={"steps": 2}, output="pt")
    assert torch.allclose(same, plain, atol=1e-5)
    assert not torch.equal(other, same)


@FAMILIES
@pytest.mark.parametrize("solver", ["ddpm", "sde-dpm-solver++"])
def test_ledits_without_effect_gives_the_picture_back_and_with_effect_changes_it(family: str, solver: str) -> None:
    backbone = tiny(family, torch.float64)
    stage = Stage((StepNoise(),), EditFriendly(steps=5, skip=0.2, solver=solver))
    concept = invert(backbone, pictures(backbone, 2), Recipe("t", (stage,), "ledits++", ""), InvertSettings())
    plain = backbone.generate(concept, output="pt")
    silent = backbone.generate(concept, edits={"sunglasses": 0.0}, output="pt")
    loud = backbone.generate(concept, edits={"sunglasses": 5.0, "hat": -5.0}, output="pt")
    with backbone.bound() as view, torch.no_grad():
        exact = backbone.decode(view, latents_of(backbone)).clamp(0, 1)
    assert torch.allclose(plain, exact, atol=1e-9) and torch.allclose(silent, exact, atol=1e-9)
    assert (loud - plain).abs().max() > 1e-6


def test_ledits_masks_keep_the_share_above_the_quantile() -> None:
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(2, 4, 20, 20, generator=generator)
    mask = largest(difference, 0.9)
    assert mask.shape == (2, 1, 20, 20) and mask.mean((1, 2, 3)).tolist() == pytest.approx([0.1, 0.1])
    assert (
        difference.abs().sum(1, keepdim=True)[mask == 1].min() > difference.abs().sum(1)[:, None][mask == 0].max() - 2
    )
    maps = torch.zeros(1, 3, 10, 10)
    maps[0, 1, 2:5, 2:5] = 1.0  # the token that is said attends here,
    maps[0, 2, 7:, 7:] = 9.0  # another one there
    found = attended(maps, torch.tensor([[False, True, False]]), (20, 20), 0.9)
    assert found.shape == (1, 1, 20, 20)
    assert found[0, 0, 6, 6] == 1 and found[0, 0, 16, 16] == 0 and found.mean() < 0.15


def test_ledits_recipe_runs_and_names_what_it_needs() -> None:
    backbone = tiny("stable-diffusion")
    concept = by_recipe(backbone, "ledits++", steps=4, count=1)
    assert concept.codes[0].meta["sampling"]["solver"] == "sde-dpm-solver++"
    drawn = backbone.generate(concept, edits={"sunglasses": 5.0}, output="pt")
    assert drawn.shape == (1, 3, 64, 64)
    plain = by_recipe(backbone, "ddim-inversion", steps=2, count=1)
    with pytest.raises(UserError, match="noise of every step"):
        backbone.generate(plain, edits={"sunglasses": 5.0})


def test_a_source_prompt_is_refused_where_nothing_reads_it() -> None:
    with pytest.raises(UserError, match="no scheme for prompt and source"):
        tiny("emu3").generate(prompt="a dog", source="a cat")
    backbone = tiny("stable-diffusion")
    latents = by_recipe(backbone, "delta-denoising", count=1)
    with pytest.raises(UserError, match="and no prompt"):
        backbone.generate(latents, source="a cat")


def test_sdedit_starts_from_the_noised_picture() -> None:
    """With an exact eps and the first steps skipped, what comes out keeps the picture: more so the more is skipped."""
    backbone = tiny("stable-diffusion", torch.float64)
    concept = by_recipe(backbone, "sdedit", count=1)
    x = latents_of(backbone, 1)
    with backbone.bound(concept) as view:
        assert torch.equal(backbone.sample_latents(view, Target(), rng=Random(0)), x)
        one_step = Target("a dog", sampling={"steps": 50, "skip": 0.999})
        late = backbone.sample_latents(view, one_step, rng=Random(0))
        early = backbone.sample_latents(view, Target("a dog", sampling={"steps": 50, "skip": 0.8}), rng=Random(0))
    assert (late - x).square().mean() < (early - x).square().mean()


def test_captions_are_the_source_of_schemes_without_inversion() -> None:
    from editing.pictures import source_prompts
    from unified.contract.reference import Reference

    backbone = tiny("flux")
    images = pictures(backbone, 2).images
    reference = Reference(images, captions=("a cat", "a dog"), category="a")
    concept = invert(backbone, reference, recipes.get("flow-edit"), InvertSettings())
    with backbone.bound(concept) as view:
        assert source_prompts(view, Target("x"), [0, 1, 2]) == ["a cat", "a dog", "a cat"]
        assert source_prompts(view, Target("x", source="y"), [0, 1]) == ["y", "y"]
