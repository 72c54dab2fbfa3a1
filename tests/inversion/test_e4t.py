"""E4T: the word near its class, offsets that multiply the weights, and an encoder that reads the network's features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones.diffusion import e4t
from backbones.diffusion.e4t import Networks, Sizes, pooled_features
from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.spaces.e4t import EncodedWord, WeightOffsets
from tests.tiny.families import pictures, tiny
from tests.tiny.picture_adapters import vision
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import recipes, refusal
from unified.contract.shadow import pristine_tensor, shadow
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    unet = tiny("stable-diffusion").components["unet"]
    with torch.no_grad():
        width = pooled_features(shadow(unet), torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, 77, 8)).shape[1]
    sizes = Sizes(layers=4, vision=16, unet=width, text=8)
    save_file(
        {k: v.contiguous() for k, v in Networks(sizes, unet).state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps(e4t.config_of(sizes, "vision")))
    vision().save_pretrained(tmp_path / "vision")
    return tmp_path


def first_codes(folder: Path) -> list[Code]:
    backbone = tiny("stable-diffusion")
    with backbone.bound() as view:
        spaces = EncodedWord(weights=str(folder)), WeightOffsets(weights=str(folder))
        return [space.initial(view, pictures(backbone, 2), rng=Random(0)) for space in spaces]


def test_the_recipe_begins_where_the_encoder_says_and_tunes_from_there(folder: Path, tmp_path: Path) -> None:
    backbone, recipe = tiny("stable-diffusion"), recipes.get("e4t").with_overrides(steps=2)
    word, offsets = EncodedWord(weights=str(folder)), WeightOffsets(weights=str(folder))
    recipe = replace(recipe, stages=(replace(recipe.stages[0], spaces=(word, offsets)),))
    concept = invert(backbone, pictures(backbone, 2), recipe, InvertSettings())
    begun = first_codes(folder)
    for code, before in zip(concept.codes, begun, strict=True):
        moved = {key for key, value in code.tensors.items() if not torch.equal(value, before.tensors[key])}
        assert "row/text_encoder" not in moved
        # Rows get no gradient at the very first step: the columns are zero then.
        assert moved >= {key for key in code.tensors if key.endswith((".column", ".bias", "offset"))}
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt", "n": 1}
    drawn = backbone.generate(concept, **options)
    assert torch.equal(drawn, backbone.generate(Concept.load(concept.save(tmp_path / "c")), **options))


def test_offsets_multiply_the_weights_and_none_are_none(folder: Path) -> None:
    backbone = tiny("stable-diffusion")
    _, code = first_codes(folder)
    unet = backbone.components["unet"]
    with backbone.bound(Concept([code])) as view:
        for path in backbone.adaptable()[1]:
            assert torch.equal(pristine_tensor(view.component("unet"), path), pristine_tensor(unet, path))
    path = backbone.adaptable()[1][3]
    code.tensors[f"{path}.column"] += 0.5
    code.tensors[f"{path}.bias"] += 0.25
    delta = code.tensors[f"{path}.column"] @ code.tensors[f"{path}.row"] + 0.25
    with backbone.bound(Concept([code]).scaled(0.5)) as view:
        found = pristine_tensor(view.component("unet"), path)
    assert torch.allclose(found, pristine_tensor(unet, path) * (1 + delta / 2), atol=1e-6)


def test_the_word_is_a_tenth_of_the_prediction_from_its_class_and_pays_for_that(folder: Path) -> None:
    backbone = tiny("stable-diffusion")
    code, _ = first_codes(folder)
    space = EncodedWord(weights=str(folder))
    with backbone.bound(Concept([code])) as view:
        text = view.component("text_encoder").get_input_embeddings()
        row = text(torch.tensor([view.rows["<me>"]]))[0]
        paid = space.prior(view, code)
    expected = code.tensors["row/text_encoder"] + 0.1 * code.tensors["offset"]
    assert torch.allclose(row, expected, atol=1e-6)
    assert paid.item() == pytest.approx(0.01 * (0.1 * code.tensors["offset"]).square().sum().item())


def test_features_are_the_means_of_the_blocks_and_the_backbone_keeps_no_hook(folder: Path) -> None:
    backbone = tiny("stable-diffusion")
    unet = shadow(backbone.components["unet"])
    seen = {}
    unet.mid_block.register_forward_hook(lambda _, __, output: seen.update(mid=output))
    latents = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = pooled_features(unet, latents, torch.tensor([3.0, 500.0]), torch.zeros(2, 77, 8))
    assert torch.equal(found[:, -8:], seen["mid"].mean((2, 3)))
    first_codes(folder)
    assert all(not module._forward_hooks for module in backbone.components["unet"].modules())


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="No trained E4T"):
        e4t.load(tiny("stable-diffusion"), "")
    (folder / "config.json").write_text(json.dumps(e4t.config_of(Sizes(4, 16, 5, 8), "vision")))
    with pytest.raises(UserError, match="trained for another"):
        e4t.load(tiny("stable-diffusion"), str(folder))
    assert refusal(StableDiffusion, recipes.get("e4t").stages) is None
    assert refusal(type(tiny("flux")), recipes.get("e4t").stages) is not None
