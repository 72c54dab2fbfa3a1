"""IP-Adapter: the same prediction as diffusers with the same file, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbones.diffusion.ip_adapter import FILE, load, normalised
from backbones.diffusion.stable_diffusion import StableDiffusion
from backbones.diffusion.train.frozen import renormalised
from backbones.diffusion.vision import Vision
from inversion.methods.encode import Encode
from inversion.spaces.picture_prompt import PicturePrompt
from inversion.spaces.text_output import LastOutputs
from tests.tiny.diffusion import stable_diffusion_pipeline, stable_diffusion_xl_pipeline
from tests.tiny.families import pictures, tiny
from tests.tiny.picture_adapters import vision, write_adapter
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


@pytest.fixture(params=[False, True], ids=["plain", "plus"])
def adapter(request, tmp_path: Path) -> Path:
    return write_adapter(tmp_path, tiny("stable-diffusion").components["unet"], plus=request.param)


def inverted(path: Path, *, scale: float = 1.0, count: int = 2) -> Concept:
    backbone = tiny("stable-diffusion")
    plan = Recipe("t", (Stage((PicturePrompt(weights=str(path), scale=scale),), Encode()),), "prompt", "")
    return invert(backbone, pictures(backbone, count), plan, InvertSettings())


def test_the_network_sees_what_diffusers_lets_it_see(adapter: Path) -> None:
    """One call of the UNet with guidance: prompts with the name see the pictures, the negative one no picture."""
    backbone, concept = tiny("stable-diffusion"), inverted(adapter, scale=0.7)
    generator = torch.Generator().manual_seed(3)
    latents, time = torch.randn(2, 4, 32, 32, generator=generator), torch.tensor([500.0, 500.0])
    with backbone.bound(concept) as view, torch.no_grad():
        found = backbone.predict(view, latents, time, backbone.condition(view, ["b", "a <me> b"]))

    pipeline = stable_diffusion_pipeline()
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=FILE, local_files_only=True)
    pipeline.set_ip_adapter_scale(0.7)
    own = load(backbone, str(adapter))
    pixels = normalised(pictures(backbone, 2).images, 32)
    with torch.no_grad():
        if own.reads_patches:
            seen = [
                pipeline.image_encoder(p, output_hidden_states=True).hidden_states[-2] for p in (0 * pixels, pixels)
            ]
        else:
            embedded = pipeline.image_encoder(pixels).image_embeds
            seen = [0 * embedded, embedded]
        text, _ = pipeline.encode_prompt("a a b", "cpu", 1, False)  # the name is read as the class word
        other, _ = pipeline.encode_prompt("b", "cpu", 1, False)
        expected = pipeline.unet(
            latents,
            time,
            encoder_hidden_states=torch.cat([other, text]),
            added_cond_kwargs={"image_embeds": [torch.stack(seen)]},
        ).sample
    assert torch.allclose(found, expected, atol=1e-5)
    with backbone.bound(inverted(adapter, scale=0.0)) as view, torch.no_grad():
        without = backbone.predict(view, latents, time, backbone.condition(view, ["b", "a <me> b"]))
    assert (found - without).abs().max() > 1e-4


def test_sdxl_sees_the_pictures_through_both_text_encoders_width(tmp_path: Path) -> None:
    """The tokens are as wide as both texts side by side; each encoder appends its columns of them."""
    backbone = tiny("stable-diffusion-xl")
    path = write_adapter(tmp_path, backbone.components["unet"], plus=True)
    plan = Recipe("t", (Stage((PicturePrompt(weights=str(path)),), Encode()),), "prompt", "")
    concept = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    latents, time = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3)), torch.tensor([500.0])
    with backbone.bound(concept) as view, torch.no_grad():
        found = backbone.predict(view, latents, time, backbone.condition(view, ["a <me> b"]))
    with backbone.bound() as view, torch.no_grad():
        condition = backbone.condition(view, ["a a b"])
    pipeline = stable_diffusion_xl_pipeline()
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=FILE, local_files_only=True)
    added = dict(backbone.added(condition, latents)["added_cond_kwargs"])
    added["image_embeds"] = [concept.codes[0].tensors["features"].unsqueeze(0)]
    with torch.no_grad():
        expected = pipeline.unet(latents, time, encoder_hidden_states=condition["text"], added_cond_kwargs=added).sample
    assert torch.allclose(found, expected, atol=1e-5)


def test_weight_nought_is_the_class_word_and_the_concept_is_drawn_as_loaded(adapter: Path, tmp_path: Path) -> None:
    backbone, concept = tiny("stable-diffusion"), inverted(adapter)
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt", "n": 1}
    drawn = backbone.generate(concept, **options)
    assert torch.equal(drawn, backbone.generate(Concept.load(concept.save(tmp_path / "c")), **options))
    plain = backbone.generate(prompt="a a b", sampling={"steps": 2}, output="pt", n=1)
    assert torch.allclose(backbone.generate(concept.scaled(0), **options), plain, atol=1e-6)
    assert not torch.allclose(drawn, plain, atol=1e-4)


def test_two_people_each_see_their_own_tokens(adapter: Path) -> None:
    """With both bound, a prompt that names one of them sees no picture of the other."""
    backbone, me = tiny("stable-diffusion"), inverted(adapter, count=1)
    you = me.renamed("<you>").with_codes([c.map(lambda t: t.flip(-1) + 0.1) for c in me.codes])
    latents, time = torch.ones(1, 4, 32, 32), torch.tensor([300.0])

    def seen(prompt: str, *concepts: Concept) -> torch.Tensor:
        with backbone.bound(*concepts) as view, torch.no_grad():
            return backbone.predict(view, latents, time, backbone.condition(view, [prompt]))

    both = seen("a <me> <you>", me, you)
    assert not torch.allclose(both, seen("a <me> <you>", me, you.scaled(0)), atol=1e-5)
    only_me = seen("a <me> b", me, you)
    changed = you.with_codes([c.map(lambda t: -t) for c in you.codes])
    assert torch.equal(only_me, seen("a <me> b", me, changed))


def test_words_per_layer_pass_beside_it(adapter: Path) -> None:
    backbone, me = tiny("stable-diffusion"), inverted(adapter)
    word = invert(
        backbone,
        replace(pictures(backbone, 1), name="<p>", names=()),
        recipes.get("p-plus").with_overrides(steps=1),
        InvertSettings(),
    )
    for order in ((me, word), (word, me)):
        with backbone.bound(*order) as view:
            drawn = view.sample(Target(prompt="<me> <p>", n=1, sampling={"steps": 2}), rng=Random(0))
        assert bool(torch.isfinite(drawn).all())


def test_the_pictures_follow_the_text_whatever_else_counts_from_its_end(adapter: Path) -> None:
    """HiPer replaces the last outputs of the text: those of the text, not the pictures' tokens behind it."""
    backbone, me = tiny("stable-diffusion"), inverted(adapter)
    with backbone.bound() as view:
        last = LastOutputs().initial(view, pictures(backbone, 1), rng=Random(0))
    last.tensors["text_encoder"] += 1
    found = []
    for order in ((me, Concept([last], name="<h>")), (Concept([last], name="<h>"), me)):
        with backbone.bound(*order) as view, torch.no_grad():
            found.append(backbone.condition(view, ["<me> <h>"])["text"][0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][72:77], last.tensors["text_encoder"]) and len(found[0]) > 77


def test_the_stored_image_encoder_gives_what_the_original_gave() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    original = Vision(vision(), (0.5, 0.4, 0.5), (0.5, 0.5, 0.25))
    before = original.layers(images)
    with torch.no_grad():
        after = renormalised(original)(normalised(images, 32), output_hidden_states=True).hidden_states
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after, strict=True))


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    backbone = tiny("stable-diffusion")
    path = write_adapter(tmp_path, backbone.components["unet"], plus=False)
    state = load_file(path)
    save_file({**state, "ip_adapter.99.to_k_ip.weight": torch.zeros(8, 8)}, tmp_path / "more.safetensors")
    wide = {k: torch.cat([v, v]) if k.startswith("ip_adapter") else v for k, v in state.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (("more", "another architecture"), ("wide", "another arch"), ("other", "no IP-Adapter")):
        with pytest.raises(UserError, match=message):
            load(backbone, str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(UserError, match="No IP-Adapter is known"):
        load(backbone, "")
    with pytest.raises(UserError, match="give a file"):
        load(backbone, "nowhere.safetensors")
    concept = inverted(path)
    other = write_adapter(tmp_path / "b", backbone.components["unet"], plus=False, seed=1)
    for code in concept.codes:
        code.meta["settings"]["weights"] = str(other)
    with pytest.raises(UserError, match="inverted with an encoder"), backbone.bound(concept):
        pass


def test_the_matrix_says_where_it_runs() -> None:
    recipe = recipes.get("ip-adapter")
    assert refusal(StableDiffusion, recipe.stages) is None
    assert "cross-attention" in (refusal(type(tiny("flux")), recipe.stages) or "")
    assert refusal(type(tiny("stylegan")), recipe.stages) is not None
