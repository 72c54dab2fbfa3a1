"""DisenBooth: two branches while learning, one afterwards, and the three terms of its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from backbones.diffusion.clip import Clip, load
from backbones.diffusion.ip_adapter import normalised
from backbones.diffusion.vision import load_vision
from inversion.methods.optimize import Optimize
from inversion.objectives.disentangled import ContrastiveEmbedding, WeakDenoising
from inversion.spaces.disenbooth import BRANCH, TwoBranches, irrelevant
from inversion.spaces.parameter import LoRA
from tests.tiny.families import pictures, tiny
from tests.tiny.picture_adapters import vision
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SD = "stable-diffusion"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    vision().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def begun(folder: Path, *, learning: int | None = None, **settings) -> Code:
    backbone = tiny(SD)
    with backbone.bound() as view:
        code = TwoBranches(weights=str(folder), **settings).initial(view, pictures(backbone, 2), rng=Random(0))
    if learning is not None:
        code.tensors[BRANCH] = torch.tensor(learning)
    return code


def test_the_embedding_is_clips(folder: Path) -> None:
    images = pictures(tiny(SD), 2).images
    found = Clip(load_vision(folder)).embed(images)
    with torch.no_grad():
        expected = load_vision(folder).module(normalised(images, 32)).image_embeds
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_branch_of_a_picture_is_a_masked_adapter_with_a_bridge(folder: Path) -> None:
    code = begun(folder)
    code.tensors["text_encoder.mask"] = torch.linspace(-2, 2, 12)
    own = {k.removeprefix("text_encoder."): v for k, v in code.tensors.items()}
    masked = own["features"] / (1 + (-own["mask"]).exp())
    hidden = (masked @ own["0.weight"].T + own["0.bias"]).clamp(min=0)
    expected = hidden @ own["1.weight"].T + own["1.bias"] + masked[:, :8]
    assert torch.allclose(irrelevant(code, "text_encoder", 8), expected, atol=1e-6)
    wide = begun(folder)
    wide.tensors |= {"t.mask": torch.zeros(12), "t.0.weight": torch.zeros(12, 12), "t.0.bias": torch.zeros(12)}
    wide.tensors |= {"t.1.weight": torch.zeros(20, 12), "t.1.bias": torch.zeros(20)}
    found = irrelevant(wide, "t", 20)
    assert torch.allclose(found[:, :12], wide.tensors["features"] / 2) and not found[:, 12:].any()


def test_each_prompt_gets_its_own_pictures_branch_while_learning(folder: Path) -> None:
    backbone, prompts = tiny(SD), ["a <me>", "b", "<me> b"]
    code = begun(folder, learning=0)
    plain = begun(folder)
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        both = backbone.condition(view, prompts)["text"]
    with backbone.bound(Concept([plain])) as view, torch.no_grad():
        text = backbone.condition(view, prompts)["text"]
    own = irrelevant(code, "text_encoder", 8)
    assert torch.allclose(both[[0, 2]] - text[[0, 2]], own[:, None].expand(-1, 77, -1), atol=1e-5)
    assert torch.equal(both[1], text[1])
    with backbone.bound() as view, torch.no_grad():
        words = backbone.condition(view, ["a sksa"])["text"]
        assert words.shape == text[:1].shape
    with backbone.bound(Concept([code])) as view, pytest.raises(UserError, match="all 2 pictures"):
        backbone.condition(view, ["<me>"])


def test_without_learning_the_name_is_the_rare_word_and_the_class(folder: Path) -> None:
    backbone = tiny(SD)
    options = {"sampling": {"steps": 2}, "output": "pt", "n": 1}
    drawn = backbone.generate(Concept([begun(folder)], name="<me>"), prompt="a <me> b", **options)
    assert torch.equal(drawn, backbone.generate(prompt="a sks a b", **options))
    kept = backbone.generate(Concept([begun(folder, keep=0.5)], name="<me>"), prompt="a <me> b", **options)
    assert not torch.allclose(drawn, kept, atol=1e-4)


def test_weak_denoising_is_the_error_with_the_branch_as_the_only_token(folder: Path) -> None:
    backbone, reference = tiny(SD), pictures(tiny(SD), 2)
    code = begun(folder, learning=0)
    with backbone.bound(Concept([code], name="<me>")) as view, torch.no_grad():
        attempt = view.attempt(reference, rng=Random(1), prompts=["<me>"] * 2)
        found = WeakDenoising()(view, attempt, [code], Step(4, 10))
        assert int(code.tensors[BRANCH]) == 0
        rng = Random(0).child("weak", 4)
        time, a, s = backbone.random_levels(rng.child("level").uniform([0, 1]))
        x0 = backbone.encode(view, reference.images)
        eps = rng.child("eps").normal([0, 1], x0.shape[1:])
        noisy = a.view(-1, 1, 1, 1).float() * x0 + s.view(-1, 1, 1, 1).float() * eps
        single = irrelevant(code, "text_encoder", 8).unsqueeze(1)
        output = backbone.components["unet"](noisy, time, encoder_hidden_states=single).sample
    assert torch.allclose(found, (output - eps).square().flatten(1).mean(1), atol=1e-5)


def test_contrastive_term_is_the_cosine_of_the_branches(folder: Path) -> None:
    backbone, reference = tiny(SD), pictures(tiny(SD), 2)
    code = begun(folder, learning=0)
    with backbone.bound(Concept([code], name="<me>")) as view, torch.no_grad():
        attempt = view.attempt(reference, rng=Random(1), prompts=["<me>"] * 2)
        found = ContrastiveEmbedding()(view, attempt, [code], Step(0, 10))
        with backbone.bound() as plain:
            text = backbone.condition(plain, ["a photo of sks a"])["text"].mean(1)
    expected = functional.cosine_similarity(text, irrelevant(code, "text_encoder", 8))
    assert torch.allclose(found, expected, atol=1e-5)
    with backbone.bound() as view, pytest.raises(UserError, match="'disenbooth'"):
        ContrastiveEmbedding()(view, attempt, [], Step(0, 1))


def recipe(folder: Path) -> Recipe:
    found = recipes.get("disenbooth").with_overrides(steps=3)
    return replace(found, stages=(replace(found.stages[0], spaces=(TwoBranches(weights=str(folder)), LoRA(rank=2))),))


def test_the_recipe_learns_adapter_and_weights_and_is_drawn_as_loaded(folder: Path, tmp_path: Path) -> None:
    backbone = tiny(SD)
    concept = invert(backbone, pictures(backbone, 2), recipe(folder), InvertSettings())
    code, before = concept.codes[0], begun(folder)
    moved = {key for key, value in code.tensors.items() if not torch.equal(value, before.tensors[key])}
    assert {"text_encoder.mask", "text_encoder.0.weight", "text_encoder.1.bias"} <= moved
    assert BRANCH not in code.tensors and torch.equal(code.tensors["features"], before.tensors["features"])
    assert torch.equal(code.tensors["row/text_encoder"], before.tensors["row/text_encoder"])
    assert all(bool(torch.isfinite(t).all()) for c in concept.codes for t in c.tensors.values())
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt", "n": 1}
    drawn = backbone.generate(concept, **options)
    assert torch.equal(drawn, backbone.generate(Concept.load(concept.save(tmp_path / "c")), **options))


def test_what_makes_no_sense_is_refused(folder: Path) -> None:
    backbone = tiny(SD)
    assert refusal(type(backbone), recipes.get("disenbooth").stages) is None
    assert refusal(type(tiny("stylegan")), recipes.get("disenbooth").stages) is not None
    with pytest.raises(UserError, match="No CLIP is known"):
        load(backbone, "")
    plan = Recipe("t", (Stage((TwoBranches(weights=str(folder)),), Optimize(steps=1, batch=1)),), "prompt", "")
    with pytest.raises(UserError, match="leave the batch size out"):
        invert(backbone, pictures(backbone, 2), plan, InvertSettings())
