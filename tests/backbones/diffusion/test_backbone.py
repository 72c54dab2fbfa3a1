"""The diffusion backbones against diffusers' own pipelines, closed forms and the known traps."""

from __future__ import annotations

import itertools

import pytest
import torch

from backbones.diffusion.flux import pack, positions, unpack
from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.methods.ode import InvertSteps
from inversion.spaces.noise import StartNoise
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


def start_noise(latents: torch.Tensor, steps: int) -> Concept:
    meta = {"settings": {}, "sampling": {"steps": steps}}
    return Concept([Code("start-noise", {"latents": latents}, True, meta)], category="a")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_stable_diffusion_samples_what_diffusers_samples(prediction: str, guidance: float) -> None:
    pipeline = tiny_diffusion.stable_diffusion_pipeline(prediction=prediction)
    pipeline.set_progress_bar_config(disable=True)
    backbone = StableDiffusion("tiny", pipeline)
    latents = torch.randn(2, *backbone.latent_shape(), generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        ["a red hat"] * 2, latents=latents, num_inference_steps=5, guidance_scale=guidance, output_type="pt"
    ).images
    with backbone.bound(start_noise(latents, 5)) as view:
        sampled = view.sample(Target(prompt="a red hat", n=2, sampling={"guidance": guidance}), rng=Random(0))
    assert torch.allclose(sampled, expected, atol=2e-5), (sampled - expected).abs().max()


def test_flux_samples_what_diffusers_samples() -> None:
    pipeline = tiny_diffusion.flux_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    backbone = tiny("flux")
    latents = torch.randn(1, *backbone.latent_shape(), generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        "a red hat",
        latents=pack(latents),
        num_inference_steps=4,
        height=backbone.resolution,
        width=backbone.resolution,
        max_sequence_length=backbone.text_length,
        output_type="pt",
    ).images
    with backbone.bound(start_noise(latents, 4)) as view:
        sampled = view.sample(Target(prompt="a red hat", sampling={"guidance": 1.0}), rng=Random(0))
    assert torch.allclose(sampled, expected, atol=2e-5), (sampled - expected).abs().max()


def test_flux_packing_is_diffusers_and_has_an_inverse() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 3, 4, 6)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 3, 4, 6))
    assert torch.equal(unpack(pack(latents), 4, 6), latents)
    ids = FluxPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32)
    assert torch.equal(positions(2, 3), ids)


@pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
def test_target_and_split_are_inverse(family: str) -> None:
    """Splitting the exact training target gives back x0 and eps, at every level."""
    backbone = tiny(family, torch.float64)
    x0, eps = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for level in backbone.levels(7)[:-1]:
        a, s = torch.tensor(level.a), torch.tensor(level.s)
        if level.a < 1e-6 and family == "stable-diffusion":
            continue
        found = backbone.split(backbone.target(x0, eps, a, s), a * x0 + s * eps, a, s)
        assert torch.allclose(found[0], x0) and torch.allclose(found[1], eps)


@pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
def test_levels_go_down_to_the_data(family: str) -> None:
    levels = tiny(family).levels(9)
    assert len(levels) == 10
    assert all(one.s > other.s for one, other in itertools.pairwise(levels))
    assert all(0 <= level.a <= 1 for level in levels)


class GaussianData(StableDiffusion):
    """The tiny model with the network replaced by the exact eps of data N(0, deviation^2)."""

    deviation = 0.5

    def predict(self, view, latents, time, condition):
        alpha = self.alphas_cumprod[time.long()].view(-1, 1, 1, 1)
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        return s * latents / (a**2 * self.deviation**2 + s**2)


def _round_trip(backbone: StableDiffusion, steps: int, rounds: int = 0) -> float:
    reference = pictures(backbone, 1)
    recipe = Recipe("test", (Stage((StartNoise(),), InvertSteps(steps=steps, rounds=rounds)),), "", "")
    concept = invert(backbone, reference, recipe, InvertSettings())
    with backbone.bound(concept) as view, torch.no_grad():
        latents = backbone.encode(view, reference.images)
        x = backbone.sample_latents(view, Target(), rng=Random(0))
    return float((x - latents).abs().max() / latents.abs().max())


def test_ddim_inversion_error_on_a_gaussian_falls_as_one_over_n() -> None:
    pipeline = tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64)
    backbone = GaussianData("gauss", pipeline)
    coarse, middle, fine = (_round_trip(backbone, steps) for steps in (10, 50, 500))
    assert coarse > middle > fine
    assert middle < coarse / 3 and fine < middle / 6
    assert _round_trip(backbone, 50, rounds=20) < 1e-6


def test_steps_other_than_the_inversions_are_refused() -> None:
    backbone = tiny("stable-diffusion")
    concept = start_noise(torch.zeros(1, *backbone.latent_shape()), 4)
    with pytest.raises(UserError, match="inverted with steps=4"):
        backbone.generate(concept, sampling={"steps": 9})
    with pytest.raises(UserError, match="no setting stepps; it has guidance, skip, solver, steps"):
        backbone.generate(prompt="a", sampling={"stepps": 9})


def test_a_prompt_that_does_not_fit_is_refused_not_cut() -> None:
    with pytest.raises(UserError, match="text encoder takes 77"):
        tiny("stable-diffusion").generate(prompt="a " * 90)


@pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
def test_a_row_equal_to_a_known_words_gives_that_words_picture(family: str) -> None:
    """The placeholder stands exactly where the word would: rows of the letter 'x' against 'x' in the prompt."""
    backbone = tiny(family)
    tensors = {}
    for text in backbone.texts():
        ids = text.tokenizer("x", add_special_tokens=False)["input_ids"]
        embedding = backbone.components[text.component].get_submodule(text.embedding)
        tensors[text.component] = embedding(torch.tensor(ids))
    lengths = {len(rows) for rows in tensors.values()}
    if len(lengths) > 1:  # T5 writes a mark of its own before a word: compare in CLIP only
        tensors["text_encoder_2"] = tensors["text_encoder_2"][-1:]
    word = Concept([Code("word", tensors, False, {"settings": {}})], name="<me>")
    settings = {"sampling": {"steps": 2}, "seed": 1, "output": "pt"}
    named = backbone.generate(word, prompt="<me>", **settings)
    if len(lengths) == 1:
        assert torch.equal(named, backbone.generate(prompt="x", **settings))
    assert not torch.equal(named, backbone.generate(prompt="y", **settings))


def test_two_words_do_not_disturb_each_other() -> None:
    backbone = tiny("stable-diffusion")
    rows = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    one = Concept([Code("word", {"text_encoder": rows[0]}, False, {"settings": {}})], name="<one>")
    two = Concept([Code("word", {"text_encoder": rows[1]}, False, {"settings": {}})], name="<two>")
    with torch.no_grad():
        with backbone.bound(one) as view:
            alone = backbone.condition(view, ["a <one>"])["text"]
        with backbone.bound(two, one) as view:
            together = backbone.condition(view, ["a <one>"])["text"]
            both = backbone.condition(view, ["<two> <one>"])["text"]
    assert torch.equal(alone, together)
    assert not torch.equal(both, together)
