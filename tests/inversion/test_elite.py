"""ELITE: the local attention as the paper has it, words and patches where they belong, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones.diffusion import elite
from backbones.diffusion.elite import Networks, begin_as_text, cross_shapes, local_attention
from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.methods.encode import Encode
from inversion.spaces.elite import WordAndPatches
from tests.tiny.families import pictures, tiny
from tests.tiny.picture_adapters import vision
from unified.contract.attention import Attention, Place
from unified.contract.concept import Concept
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SIZES = elite.Sizes((3, 2, 1), 6, 16, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    unet = tiny("stable-diffusion").components["unet"]
    networks = Networks(SIZES, cross_shapes(unet))
    begin_as_text(networks, unet)
    save_file({k: v.contiguous() for k, v in networks.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(elite.config_of(SIZES, "vision")))
    vision().save_pretrained(tmp_path / "vision")
    return tmp_path


def inverted(folder: Path, reference: Reference | None = None, **settings) -> Concept:
    backbone = tiny("stable-diffusion")
    plan = Recipe("t", (Stage((WordAndPatches(weights=str(folder), **settings),), Encode()),), "prompt", "")
    return invert(backbone, reference or pictures(backbone, 1), plan, InvertSettings())


def seen(prompt: str, *concepts: Concept) -> torch.Tensor:
    backbone = tiny("stable-diffusion")
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    with backbone.bound(*concepts) as view, torch.no_grad():
        return backbone.predict(view, latents, torch.tensor([400.0]), backbone.condition(view, [prompt]))


def test_local_attention_is_gated_by_the_attention_to_the_word() -> None:
    """Equation 6 written out, entry by entry."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, generator=generator) for n in (5, 6, 6))
    said = torch.zeros(2, 6)
    said[0, 2] = 1  # the second row does not say the word
    local_key, local_value = (torch.randn(1, 7, 12, generator=generator) for _ in range(2))
    call = Attention(
        Place("p", "cross", 0), torch.zeros(2), (1, 5), query, key, value, slice(0, 0), slice(0, 6), slice(0, 5)
    )
    found = local_attention(call, said, local_key, local_value)
    assert torch.equal(found[1], torch.zeros(3, 5, 4))
    word = torch.stack([(query[0, h] @ key[0, h].T / 2).softmax(-1)[:, 2] for h in range(3)])
    for head in range(3):
        own_key, own_value = (part[0, :, 4 * head : 4 * head + 4] for part in (local_key, local_value))
        for place in range(5):
            weights = (query[0, head, place] @ own_key.T / 2).softmax(0)
            expected = word[head, place] / word.max() * (weights @ own_value)
            assert torch.allclose(found[0, head, place], expected, atol=1e-6)


def test_without_patches_and_with_the_class_row_it_is_the_class_word(folder: Path) -> None:
    """Keys and values begin as the text's, so only word and patches make the difference."""
    backbone = tiny("stable-diffusion")
    concept = inverted(folder, local=0.0)
    embedding = backbone.components["text_encoder"].get_input_embeddings()
    ids = backbone.texts()[0].tokenizer("a", add_special_tokens=False)["input_ids"]
    concept.codes[0].tensors["words"] = embedding(torch.tensor(ids)).detach()
    assert torch.allclose(seen("a <me> b", concept), seen("a a b"), atol=1e-5)


def test_patches_act_only_where_the_word_is_said(folder: Path) -> None:
    concept = inverted(folder)
    other = concept.with_codes(
        [code.with_tensors({**code.tensors, "patches": -code.tensors["patches"]}) for code in concept.codes]
    )
    assert torch.equal(seen("a b", concept), seen("a b", other))
    assert (seen("a <me> b", concept) - seen("a <me> b", other)).abs().max() > 1e-5
    weak = (seen("a <me> b", concept.scaled(0)) - seen("a <me> b", other.scaled(0))).abs().max()
    assert weak == 0


def test_words_are_one_for_each_layer_and_patches_see_the_mask_alone(folder: Path) -> None:
    backbone = tiny("stable-diffusion")
    reference = pictures(backbone, 2)
    masks = torch.zeros_like(reference.images[:, :1])
    masks[..., 32:] = 1
    painted = torch.where(masks > 0, reference.images, torch.rand_like(reference.images))
    first = inverted(folder, Reference(reference.images, masks, name="<me>")).codes[0].tensors
    second = inverted(folder, Reference(painted, masks, name="<me>")).codes[0].tensors
    assert first["words"].shape == (3, 8) and first["patches"].shape == (2 * 16, 8)
    assert torch.allclose(first["patches"], second["patches"], atol=1e-6)
    assert not torch.allclose(first["words"], second["words"], atol=1e-4)


def test_concepts_are_drawn_as_loaded_and_all_words_take_their_places(folder: Path, tmp_path: Path) -> None:
    backbone = tiny("stable-diffusion")
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt", "n": 1}
    for concept in (inverted(folder), inverted(folder, all_words=True)):
        drawn = backbone.generate(concept, **options)
        assert torch.equal(drawn, backbone.generate(Concept.load(concept.save(tmp_path / "c")), **options))


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    concept = inverted(folder)
    with (
        pytest.raises(UserError, match="both replace"),
        tiny("stable-diffusion").bound(concept, concept.renamed("<you>")),
    ):
        pass
    with pytest.raises(UserError, match="No trained ELITE"):
        elite.load(tiny("stable-diffusion"), "")
    (folder / "config.json").write_text(json.dumps({**elite.config_of(SIZES, "vision"), "kind": "other"}))
    with pytest.raises(UserError, match="kind 'other'"):
        elite.load(tiny("stable-diffusion"), str(folder))
    assert refusal(StableDiffusion, recipes.get("elite").stages) is None
    assert refusal(type(tiny("flux")), recipes.get("elite").stages) is not None
