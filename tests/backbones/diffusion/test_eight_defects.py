"""Eight defects of the libraries below, or of published code: one test each.

Every test shows both sides: what goes wrong without the work-around (so that it tells when a newer version no
longer needs it), and that the work-around holds.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from peft import OFTConfig
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from backbones.diffusion.clip_texts import clip_component
from backbones.diffusion.flux import Flux
from backbones.diffusion.prompts import padded_ids
from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.methods.controlled import ControlledFlow
from inversion.methods.edit_friendly import EditFriendly
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.latents import Anchor
from inversion.spaces.noise import StartNoise, StepNoise
from inversion.spaces.orthogonal import BOFT, OFT
from tests.inversion.noise import noise_concept, worst
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.abilities import Level
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.space import Space
from unified.contract.target import Target
from unified.denoising.steps import ancestral_mean, deviation
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SD = "stable-diffusion"


def loud(space: Space, family: str = SD) -> Concept:
    backbone = tiny(family)
    with backbone.bound() as view:
        code = space.initial(view, pictures(backbone), rng=Random(0))
    generator = torch.Generator().manual_seed(1)
    return Concept([code.map(lambda t: t + 0.5 * torch.randn(t.shape, generator=generator))], "red", "red", "a")


def draw(*concepts: Concept) -> torch.Tensor:
    with tiny(SD).bound(*concepts) as view:
        return view.sample(Target(prompt="a red hat", sampling={"steps": 2}), rng=Random(0))


def theirs(pipeline, **settings) -> torch.Tensor:
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    return pipeline("a hat", latents=latents, num_inference_steps=2, output_type="pt", **settings).images


def test_1_custom_diffusion_weights_are_loaded_and_not_silently_left_out(tmp_path: Path) -> None:
    concept = loud(KeysValues())
    (path,) = tiny(SD).export(concept, tmp_path, software="diffusers")
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    before = theirs(pipeline)
    pipeline.unet.load_attn_procs(str(tmp_path), weight_name=path.name)
    assert torch.equal(theirs(pipeline), before)  # the library: nothing happens
    adopted = tiny(SD).adopt(path, name="red", carrier="red")
    assert torch.equal(draw(adopted), draw(concept))
    assert not torch.allclose(draw(adopted), draw(Concept([], "red", "red")), atol=1e-3)
    tensors = load_file(path)
    save_file({f"{name}.not": value for name, value in tensors.items()} | {next(iter(tensors)): torch.zeros(3)}, path)
    with pytest.raises(UserError):
        tiny(SD).adopt(path)


def test_2_clips_embedding_is_found_with_and_without_text_model(tmp_path: Path) -> None:
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    first, second = pipeline.text_encoder, pipeline.text_encoder_2
    assert not hasattr(first, "text_model") and hasattr(second, "text_model")
    with pytest.raises(AttributeError, match="text_model"):  # the library: clip_skip still asks for it
        theirs(tiny_diffusion.stable_diffusion_pipeline(), clip_skip=1)
    paths = [clip_component("x", encoder, pipeline.tokenizer).embedding for encoder in (first, second)]
    assert "text_model" not in paths[0] and paths[1].startswith("text_model.")
    for encoder, path in zip((first, second), paths, strict=True):
        assert encoder.get_submodule(path) is encoder.get_input_embeddings()
    # Files with the former name reach the module that it is now.
    modules = [name for name, _ in tiny(SD).components["text_encoder"].named_modules() if name.endswith("q_proj")]
    tensors = {}
    for name in modules:
        tensors[f"text_encoder.text_model.{name}.lora_A.weight"] = torch.randn(2, 8)
        tensors[f"text_encoder.text_model.{name}.lora_B.weight"] = torch.randn(8, 2)
    save_file(tensors, tmp_path / "lora.safetensors")
    adopted = tiny(SD).adopt(tmp_path / "lora.safetensors", name="red", carrier="red")
    assert len(adopted.codes[0].tensors) == 2 * len(modules)
    assert not torch.allclose(draw(adopted), draw(), atol=1e-4)


def test_3_a_words_gradient_reaches_its_own_vector_only() -> None:
    assert "inputs_embeds" not in inspect.signature(CLIPTextModel.forward).parameters  # the library: no way in
    backbone = tiny(SD)
    row = torch.randn(1, 8, requires_grad=True)
    word = Concept([Code("word", {"text_encoder": row}, False, {"settings": {}})], name="<me>")
    with backbone.bound(word) as view:
        attempt = view.attempt(pictures(backbone, 2), rng=Random(0), prompts=["a <me>", "a <me> b"])
        attempt.error.sum().backward()
    assert row.grad is not None and float(row.grad.abs().max()) > 0
    assert all(value.grad is None for module in backbone.components.values() for value in module.parameters())
    row.grad = None
    with backbone.bound(word) as view:  # a prompt without the name
        attempt = view.attempt(pictures(backbone, 2), rng=Random(0), prompts=["a b", "c"])
    assert not attempt.error.requires_grad or float(torch.autograd.grad(attempt.error.sum(), row)[0].abs().max()) == 0


def test_4_a_placeholder_is_not_taken_for_the_end_of_the_text() -> None:
    """In configurations with eos_token_id 2 CLIP pools at the largest id: an added token's is larger than the end's."""
    plain = tiny_diffusion.clip_tokenizer().get_vocab()
    special = ("<|startoftext|>", "<|endoftext|>")
    order = [*sorted((t for t in plain if t not in special), key=plain.get), *special]  # the end last, as in CLIP's
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(order)}, merges=[], model_max_length=77)
    assert tokenizer.eos_token_id == len(plain) - 1
    pipeline = tiny_diffusion.flux_pipeline()
    config = pipeline.text_encoder.config
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, 2
    torch.manual_seed(0)
    pipeline.text_encoder, pipeline.tokenizer = CLIPTextModel(config).eval(), tokenizer
    backbone = Flux("tiny", pipeline)
    rows = {t.component: torch.randn(1, t.width, generator=torch.Generator().manual_seed(5)) for t in backbone.texts()}
    word = Concept([Code("word", rows, False, {"settings": {}})], name="<me>")
    with backbone.bound(word) as view, torch.no_grad():
        pooled = backbone.condition(view, ["a <me> b"])["pooled"][0]
        ids = padded_ids(tokenizer, ["a <me> b"], view.rows, length=77)
        states = view.component("text_encoder")(ids).last_hidden_state[0]
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    place = int((ids[0] < 0).int().argmax())
    assert torch.equal(pooled, states[end])
    assert not torch.allclose(pooled, states[place], atol=1e-4)
    # The way of adding a token to the vocabulary: the library pools at it, before the rest of the text is read.
    encoder = CLIPTextModel(config).eval()
    encoder.resize_token_embeddings(len(tokenizer) + 1)
    added = torch.where(ids < 0, len(tokenizer), ids)
    with torch.no_grad():
        output = encoder(added)
    assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, place])


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_5_ledits_gives_the_picture_back_where_the_last_sigma_is_zero(guidance: float) -> None:
    """The published pipeline stores z = offset / sigma and, where sigma is 0, zero; and fails on small latents."""
    backbone = StableDiffusion("tiny", tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64))
    backbone.alpha_to_one = True
    levels = backbone.levels(6)
    assert deviation(levels[-2], levels[-1]) == 0.0
    method = EditFriendly(steps=6, skip=0.15, solver="sde-dpm-solver++", guidance=guidance, prompt="")
    concept, reference = noise_concept(backbone, StepNoise(), method)
    assert worst(backbone, concept, reference) < 1e-9
    lost = concept.codes[0].tensors["offsets"].clone()
    lost[:, -1] = 0
    without = concept.with_codes([concept.codes[0].with_tensors({**concept.codes[0].tensors, "offsets": lost})])
    assert worst(backbone, without, reference) > 1e-3
    edited = backbone.generate(concept, edits={"hat": 5.0}, scheme="ledits++", output="pt")  # small latents: masks too
    assert bool(torch.isfinite(edited).all())


@pytest.mark.parametrize("space", [OFT(block=4), BOFT(block=4)])
def test_6_rotations_come_back_from_their_file_and_are_refused_where_they_would_not(
    space: Space, tmp_path: Path
) -> None:
    concept = loud(space)
    assert torch.equal(draw(Concept.load(concept.save(tmp_path / "c"))), draw(concept))
    with pytest.raises(UserError, match="nothing but a concept file"):
        tiny(SD).export(concept, tmp_path, software="diffusers")


def test_6_the_library_cannot_read_its_own_rotations(tmp_path: Path) -> None:
    unet = tiny_diffusion.stable_diffusion_pipeline().unet
    unet.add_adapter(OFTConfig(oft_block_size=4, target_modules=["to_q"]), adapter_name="default")
    unet.save_lora_adapter(tmp_path)
    fresh = tiny_diffusion.stable_diffusion_pipeline().unet
    with pytest.raises(Exception):  # noqa: B017 (whatever it is: it is not loaded)
        fresh.load_lora_adapter(tmp_path, prefix=None)
        assert getattr(fresh, "peft_config", None), "nothing was loaded"


class GaussianFlow(Flux):
    """The exact velocity of data N(0, 1/4), at the time that it is told."""

    def predict(self, view, latents, time, condition):
        s = time.view(-1, 1, 1, 1).double()
        return latents * (s - (1 - s) / 4) / ((1 - s) ** 2 / 4 + s**2)


def test_7_rf_inversion_tells_the_network_the_level_that_it_steps_along() -> None:
    """The published FLUX code tells it i/N and steps along the shifted grid: the picture does not come back."""
    backbone = GaussianFlow("gauss", tiny_diffusion.flux_pipeline(dtype=torch.float64))
    assert max(abs(level.s - (1 - i / 32)) for i, level in enumerate(backbone.levels(32))) > 0.05  # the shift is felt

    class Inconsistent(GaussianFlow):
        def levels(self, steps: int) -> list[Level]:
            return [replace(level, time=1 - i / steps) for i, level in enumerate(super().levels(steps))]

    def miss(flow: GaussianFlow, steps: int) -> float:
        stage = Stage((StartNoise(), Anchor(eta=0.0)), ControlledFlow(steps=steps, gamma=0.0))
        found = invert(flow, pictures(flow, 1), Recipe("t", (stage,), "", ""), InvertSettings())
        return float((found.codes[0].tensors["latents"] - exact).abs().max() / exact.abs().max())

    with backbone.bound() as view, torch.no_grad():
        exact = 2 * backbone.encode(view, pictures(backbone, 1).images)  # this flow scales by 1 / deviation
    wrong = Inconsistent("gauss", tiny_diffusion.flux_pipeline(dtype=torch.float64))
    assert miss(backbone, 128) < miss(backbone, 32) / 3  # Euler's 1/n
    assert miss(wrong, 128) > 0.8 * miss(wrong, 32) > 2 * miss(backbone, 32)  # no number of steps helps


def test_8_ddpm_inversion_is_exact_with_the_right_direction_term_and_the_last_noise_kept() -> None:
    backbone = tiny(SD, torch.float64)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=6, guidance=3.5))
    assert worst(backbone, concept, reference) < 1e-9
    kept = concept.codes[0].tensors
    zeroed = kept["offsets"].clone()
    zeroed[:, -1] = 0  # zs[0] of the published code: the noise of the last step
    without = concept.with_codes([concept.codes[0].with_tensors({**kept, "offsets": zeroed})])
    assert worst(backbone, without, reference) > 1e-3
    # sqrt(1 - a - eta^2 sigma^2): as diffusers' DDIM with eta 1, independently.
    scheduler: DDIMScheduler = tiny_diffusion.stable_diffusion_pipeline().scheduler
    scheduler.set_timesteps(6)
    at, to = backbone.levels(6)[2:4]
    x, eps = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    none = torch.zeros_like(x)
    expected = scheduler.step(eps, int(at.time), x, eta=1.0, variance_noise=none).prev_sample
    assert torch.allclose(ancestral_mean((x - at.s * eps) / at.a, eps, at, to), expected, atol=1e-6)
    one = scheduler.step(eps, int(at.time), x, eta=1.0, variance_noise=torch.ones_like(x)).prev_sample
    assert deviation(at, to) == pytest.approx(float((one - expected).mean()), abs=1e-6)
