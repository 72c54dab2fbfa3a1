"""Edit-friendly DDPM inversion: exact on random networks, and its refusals."""

from __future__ import annotations

import pytest
import torch

from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.methods.edit_friendly import EditFriendly
from inversion.methods.null_text import NullText
from inversion.spaces.noise import StartNoise, StepNoise
from tests.inversion.noise import FAMILIES, SOURCE, by_recipe, noise_concept, worst
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.backbone import backbones
from unified.contract.recipe import Recipe, Stage, check, recipes
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert, invert_many


@FAMILIES
@pytest.mark.parametrize("solver", ["ddpm", "sde-dpm-solver++"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_edit_friendly_inversion_is_exact(family: str, solver: str, dtype: torch.dtype, bound: float) -> None:
    backbone = tiny(family, dtype)
    method = EditFriendly(steps=12, guidance=3.5, solver=solver)
    concept, reference = noise_concept(backbone, StepNoise(), method)
    assert worst(backbone, concept, reference) <= bound
    assert max(concept.meta["error"]["latents"]) <= bound
    assert concept.meta["error"]["pixels"] == pytest.approx(concept.meta["error"]["autoencoder"], abs=1e-4)


def test_it_is_exact_with_v_prediction_too() -> None:
    pipeline = tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64, prediction="v_prediction")
    backbone = StableDiffusion("tiny", pipeline)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=6))
    assert worst(backbone, concept, reference) <= 1e-9


@FAMILIES
def test_skipped_steps_lead_to_the_same_picture_under_the_source_prompt(family: str) -> None:
    backbone = tiny(family, torch.float64)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=10))
    for skip in (0.0, 0.36, 0.9):
        target = Target(prompt=SOURCE, sampling={"guidance": 3.5, "skip": skip})
        assert worst(backbone, concept, reference, target) < 1e-9
    other = Target(prompt="x", sampling={"guidance": 15.0, "skip": 0.36})
    assert worst(backbone, concept, reference, other) > 1e-6


def test_inverting_only_the_kept_steps_is_exact_and_refuses_the_others() -> None:
    backbone = tiny("stable-diffusion", torch.float64)
    for solver, target in (("ddpm", {"skip": 0.2}), ("sde-dpm-solver++", {"skip": 0.6})):
        method = EditFriendly(steps=10, skip=0.3, solver=solver)
        concept, reference = noise_concept(backbone, StepNoise(), method, count=1)
        assert concept.codes[0].tensors["offsets"].shape[1] == 7
        assert worst(backbone, concept, reference) < 1e-9
        with pytest.raises(UserError, match="skip"):
            backbone.generate(concept, prompt="x", sampling=target)


@FAMILIES
def test_the_last_offset_matters(family: str) -> None:
    """The published code sets the last noise to zero; what the last mean misses is then lost."""
    backbone = tiny(family, torch.float64)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=8))
    offsets = concept.codes[0].tensors["offsets"].clone()
    offsets[:, -1] = 0
    without = concept.with_codes([concept.codes[0].with_tensors({**concept.codes[0].tensors, "offsets": offsets})])
    assert worst(backbone, without, reference) > 1e-2


def test_the_noises_of_different_levels_are_independent() -> None:
    """Section 3.2: that is what makes the maps friendly to edits; along a DDPM path neighbours correlate."""
    backbone = tiny("stable-diffusion", torch.float64)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=8), count=1)
    with backbone.bound() as view, torch.no_grad():
        x0 = backbone.encode(view, reference.images)
    path = concept.codes[0].tensors["trajectory"][0]
    eps = [(x - level.a * x0[0]) / level.s for x, level in zip(path, backbone.levels(8), strict=False)]
    correlation = torch.corrcoef(torch.stack([e.flatten() for e in eps]))
    assert (correlation - torch.eye(len(eps))).abs().max() < 0.08
    assert torch.stack(eps).std() == pytest.approx(1.0, abs=0.02)


def test_captions_are_the_prompts_of_the_inversion() -> None:
    backbone = tiny("stable-diffusion")
    images = pictures(backbone, 2).images
    recipe = recipes.get("ddim-inversion").with_overrides(steps=2)
    reference = Reference(images, captions=("a cat", "a dog"), category="a")
    concept = invert(backbone, reference, recipe, InvertSettings())
    assert [entry["prompt"] for entry in concept.codes[0].meta["pictures"]] == ["a cat", "a dog"]
    assert concept.codes[0].pick([1]).meta["pictures"] == [{"prompt": "a dog"}]


@pytest.mark.parametrize(
    "name", ["ddpm-inversion", "null-text", "negative-prompt-inversion", "direct-inversion", "dpm-solver-inversion"]
)
def test_only_models_that_denoise_are_served(name: str) -> None:
    for family in ("stylegan2", "emu3"):
        with pytest.raises(UserError, match="needs a backbone that denoises"):
            check(backbones.get(family), recipes.get(name), id=family)
    for family in ("stable-diffusion", "flux"):
        check(backbones.get(family), recipes.get(name), id=family)


def test_methods_refuse_spaces_they_do_not_fill() -> None:
    recipe = Recipe("r", (Stage((StartNoise(),), NullText()),), "", "")
    with pytest.raises(UserError, match="'null-text' fills 'start-noise' & 'unconditional'"):
        check(backbones.get("stable-diffusion"), recipe, id="sd")


def test_skip_is_refused_where_no_level_but_the_first_is_known() -> None:
    backbone = tiny("stable-diffusion")
    concept, _ = by_recipe(backbone, "ddim-inversion", steps=4, count=1)
    with pytest.raises(UserError, match="ddpm-inversion"):
        backbone.generate(concept, prompt="x", sampling={"skip": 0.5})
    with pytest.raises(UserError, match="ddpm-inversion"):
        backbone.generate(prompt="x", sampling={"skip": 0.5})
    with pytest.raises(UserError, match="choose one of"):
        backbone.generate(prompt="x", sampling={"solver": "euler"})
    with pytest.raises(UserError, match="rf-solver"):
        backbone.generate(prompt="x", sampling={"solver": "rf-solver", "steps": 2})


def test_an_interrupted_measurement_keeps_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("stable-diffusion")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backbone, "sample_latents", interrupted)
    concept, _ = by_recipe(backbone, "ddim-inversion", steps=1, count=1)
    assert concept.codes and "error" not in concept.meta


@FAMILIES
def test_asked_guidance_holds_for_the_way_back_too(family: str) -> None:
    backbone = tiny(family)
    concept, _ = by_recipe(backbone, "ddim-inversion", steps=3, count=1)
    plain, one, guided = (
        backbone.generate(concept, sampling=sampling, output="pt")
        for sampling in ({}, {"guidance": 1.0}, {"guidance": 9.0})
    )
    assert torch.equal(plain, one)  # without being asked, the way back is the way there: not guided
    assert not torch.allclose(plain, guided)


@pytest.mark.parametrize(
    "name", ["ddim-inversion", "null-text", "negative-prompt-inversion", "direct-inversion", "ddpm-inversion"]
)
def test_several_concepts_in_one_batch_come_out_as_each_alone(name: str) -> None:
    """Each under its own name and category: in a batch all names are carried, not the first one's alone."""
    backbone = tiny("stable-diffusion", torch.float64)
    recipe = recipes.get(name).with_overrides(steps=4)
    people = [
        Reference(pictures(backbone, 1, seed=i).images, name=f"<it-{i}>", category=kind)
        for i, kind in enumerate(["cat", "hat"])
    ]
    together = invert_many(backbone, people, recipe, InvertSettings())
    for reference, concept in zip(people, together, strict=True):
        alone = invert(backbone, reference, recipe, InvertSettings())
        assert alone.codes[0].meta["pictures"] == concept.codes[0].meta["pictures"]
        assert reference.category in concept.codes[0].meta["pictures"][0]["prompt"]
        for one, other in zip(alone.codes, concept.codes, strict=True):
            for key, value in one.tensors.items():
                torch.testing.assert_close(other.tensors[key], value, rtol=1e-6, atol=1e-9)
