"""Self-Guidance, RB-Modulation, Stable Flow and InstantStyle: closed forms, and what each may not touch."""

from __future__ import annotations

import pytest
import torch

from editing.attention import stable_flow
from editing.attention.instant_style import LookUp, remembered
from editing.attention.pairs import Pairs
from editing.attention.stable_flow import Bypass, SourceContents, most_vital, vitality
from editing.rb_modulation import RBModulation, controlled, dissimilarity, style
from editing.self_guidance import SelfGuidance, Watch, asked, seen, thresholded
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.abilities import lacked
from unified.contract.attention import Editor
from unified.contract.backbone import backbones
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.recipe import recipe_refusal, recipes
from unified.contract.scheme import choose_scheme, schemes
from unified.contract.target import Target
from unified.denoising.sampler import sample_latents, sample_pair
from unified.errors import UserError

SD, XL, SD3 = "stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3"
SHORT = {"steps": 3, "guidance": 2.0}


def style_concept(family: str, recipe: str, *, seed: int = 3) -> Concept:
    return tiny(family).invert(pictures(tiny(family), 1, seed=seed).images, recipe=recipe)


# --- Stable Flow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [SD, SD3, "flux"])
def test_layers_that_say_nothing_are_not_vital(family: str) -> None:
    """One layer's values are made constant zero: leaving it out changes nothing, leaving out others does."""
    made = {SD: tiny_diffusion.stable_diffusion, SD3: tiny_diffusion.stable_diffusion_3, "flux": tiny_diffusion.flux}
    backbone = made[family]()
    places = [place for place in backbone.places() if place.kind != "cross"]
    silent = places[-1]
    module = backbone.components[backbone.adaptable()[0]].get_submodule(silent.name)
    for name in ("to_v", "add_v_proj"):
        for value in getattr(module, name).parameters() if getattr(module, name, None) is not None else ():
            value.zero_()

    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().flatten(1).mean(1)

    found = vitality(backbone, prompts=("a dog",), steps=2, distance=squared)
    assert list(found) == places
    assert found[silent] == pytest.approx(0.0, abs=1e-12)
    assert all(value > 1e-10 for place, value in found.items() if place != silent)
    assert silent not in most_vital(found, 0.5) and len(most_vital(found, 0.0)) == 1


def test_vitality_is_measured_once_a_backbone_by_perceptual_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_diffusion.flux()
    found = vitality(backbone, prompts=("a dog",), steps=1)
    assert all(value >= 0 for value in found.values())
    monkeypatch.setattr(stable_flow, "Bypass", None)  # nothing is drawn again
    assert vitality(backbone, prompts=("a dog",), steps=1) is found


@pytest.mark.parametrize("family", [SD, SD3, "flux"])
def test_contents_come_from_the_source_in_the_vital_layers_only(family: str) -> None:
    backbone = tiny(family)
    places = [place for place in backbone.places() if place.kind != "cross"]
    chosen = places[:1]
    seen_calls = []

    class See(Editor):
        def wants(self, place) -> bool:
            return place.kind != "cross"

        def project(self, call) -> None:
            seen_calls.append(call)

    pairs = Pairs(2)
    with backbone.bound() as view, torch.no_grad():
        view.edit_attention(SourceContents(pairs, chosen), See())
        target = Target(prompt="a blue dog", source="a red hat", n=2, sampling=SHORT)
        source, _ = sample_pair(view, target, rng=Random(0))
    with backbone.bound() as view, torch.no_grad():
        plain, _ = sample_pair(view, target, rng=Random(0))
    assert torch.equal(source, plain)  # the source is never touched
    for call in seen_calls[len(places) :]:
        for before, after in zip(pairs.sources(len(call.key)), pairs.targets(len(call.key)), strict=True):
            same = torch.equal(call.key[before, :, call.picture], call.key[after, :, call.picture])
            assert same is (call.place in chosen)


def test_stable_flow_is_what_flux_and_sd3_offer_for_a_prompt_and_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("flux", SD3):
        chosen = choose_scheme(tiny(family), [], Target(prompt="a dog", source="a cat"))
        assert chosen.name == "stable-flow"
    backbone = tiny("flux")
    monkeypatch.setattr(stable_flow, "PROMPTS", ("a dog",))
    monkeypatch.setattr(stable_flow.vitality, "__kwdefaults__", {**stable_flow.vitality.__kwdefaults__, "steps": 1})
    options = {"source": "a cat", "sampling": SHORT, "output": "pt", "n": 1}
    same = backbone.generate(prompt="a cat", **options)
    with backbone.bound() as view:
        plain = view.sample(Target(prompt="a cat", n=1, sampling=SHORT), rng=Random(0).child("generate"))
    assert same.shape == plain.shape
    assert not torch.equal(backbone.generate(prompt="a dog", **options), same)


def test_a_bypassed_attention_gives_zero() -> None:
    backbone = tiny(SD)
    place = next(p for p in backbone.places() if p.kind == "self")
    got = []

    class After(Editor):
        def output(self, call, mixed):
            if call.place == place:
                got.append(mixed)
            return mixed

    with backbone.bound() as view, torch.no_grad():
        view.edit_attention(Bypass(place), After())
        view.sample(Target(prompt="a", sampling={"steps": 1}), rng=Random(0))
    assert got and all(float(mixed.abs().max()) == 0.0 for mixed in got)


# --- RB-Modulation ------------------------------------------------------------------------------------------


def test_control_goes_down_the_cost_and_nothing_is_nothing() -> None:
    wanted = torch.tensor([[1.0, -2.0]])
    x0 = torch.zeros(1, 2)

    def cost(x: torch.Tensor) -> torch.Tensor:
        return (x - wanted).square().sum()

    moved = controlled(x0, cost, iterations=3, lr=0.1)
    assert torch.allclose(moved, torch.tensor([[0.3, -0.3]]), atol=2e-2)  # Adam's steps are of the size of the rate
    assert controlled(x0, cost, iterations=0, lr=0.1) is x0 and controlled(x0, cost, iterations=3, lr=0.0) is x0


def test_style_is_of_the_texture_and_not_of_the_place() -> None:
    stripes = (torch.arange(64) // 4 % 2).float().expand(1, 3, 64, 64)
    moved, turned = stripes.roll(8, 3), stripes.transpose(2, 3)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same, other, far = (float(dissimilarity(style(stripes), style(x))) for x in (moved, turned, noise))
    assert same < 0.01 < other and same < 0.01 < far
    assert float(dissimilarity(style(noise), style(noise))) == pytest.approx(0.0, abs=1e-5)


def test_rb_modulation_comes_nearer_to_the_style_the_stronger_it_is() -> None:
    backbone = tiny(SD)
    concept = style_concept(SD, "rb-modulation")
    with backbone.bound() as view, torch.no_grad():
        wanted = style(backbone.decode(view, concept.codes[0].tensors["latents"]))
    target = Target(prompt="a hat", n=2, sampling=SHORT)

    def drawn(weight: float) -> torch.Tensor:
        scheme = RBModulation(lr=0.5)
        return scheme.generate(backbone, [concept.scaled(weight)], target, rng=Random(0), progress=Silent())

    with backbone.bound() as view:
        plain = view.sample(target, rng=Random(0))
    assert torch.equal(drawn(0.0), plain)
    costs = [float(dissimilarity(style(drawn(weight)), wanted).mean()) for weight in (0.0, 0.2, 1.0)]
    assert costs[2] < costs[1] < costs[0], costs
    with pytest.raises(UserError, match="invert it with the recipe 'rb-modulation'"):
        backbone.generate(prompt="a hat", scheme="rb-modulation")


# --- InstantStyle -------------------------------------------------------------------------------------------


def test_only_the_style_block_sees_the_reference() -> None:
    backbone = tiny(XL)
    concept = style_concept(XL, "instant-style")
    block = backbone.content_and_style()[1]
    with torch.no_grad(), backbone.bound() as view:
        memory = remembered(view, concept.codes[0].tensors["latents"], block, steps=3, rng=Random(0))
    own = [p for p in backbone.places() if p.kind == "self" and p.name.startswith(f"{block}.")]
    assert {name for name, _ in memory} == {place.name for place in own} and len(memory) == 3 * len(own)
    editor = LookUp(block, memory, 1.0)
    assert [place for place in backbone.places() if editor.wants(place)] == own


def test_instant_style_at_weight_zero_is_the_plain_picture_and_grows_with_it() -> None:
    backbone = tiny(XL)
    concept = style_concept(XL, "instant-style")
    options = {"prompt": "a hat", "sampling": SHORT, "output": "pt", "n": 2}
    with backbone.bound() as view:
        plain = view.sample(Target(prompt="a hat", n=2, sampling=SHORT), rng=Random(0).child("generate"))
    drawn = [backbone.generate(concept.scaled(weight), **options) for weight in (0.0, 0.3, 1.0)]
    assert torch.allclose(drawn[0], plain, atol=1e-6)
    near, far = ((picture - plain).square().mean() for picture in drawn[1:])
    assert 0 < float(near) < float(far)
    assert "two separate blocks" in str(recipe_refusal(type(tiny(SD)), recipes.get("instant-style")))


def test_a_reference_equal_to_the_picture_changes_nothing() -> None:
    """Its keys and values doubled: attention over both halves is attention over one."""
    query, key, value = torch.randn(3, 1, 2, 5, 4, dtype=torch.float64)

    class Call:
        place, time = tiny(XL).places()[0], torch.tensor([0.5])

    call = Call()
    call.query, call.key, call.value = query, key, value
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    memory = {(call.place.name, 0.5): (key, value)}
    assert torch.allclose(LookUp("x", memory, 1.0).output(call, mixed), mixed)


# --- Self-Guidance ------------------------------------------------------------------------------------------


def spot(x: int, y: int, size: int) -> torch.Tensor:
    found = torch.full((1, 16, 16), 1e-4)
    found[:, y : y + size, x : x + size] = 0.8
    return found


def test_properties_of_a_spot_are_where_it_is_and_how_large() -> None:
    features = torch.zeros(1, 2, 16, 16)
    features[:, 0, 2:6, 8:12], features[:, 1, 10:, :] = 3.0, 5.0
    found = seen(spot(8, 2, 4), features)
    assert torch.allclose(found.centre, torch.tensor([[10 / 16, 4 / 16]]), atol=0.01)
    assert float(found.size) == pytest.approx(16 / 256, abs=0.02)
    assert float(seen(spot(8, 2, 8), features).size) == pytest.approx(64 / 256, abs=0.02)
    assert torch.allclose(found.appearance, torch.tensor([[3.0, 0.0]]), atol=0.2)
    assert float(thresholded(spot(0, 0, 3)).max()) == 1.0 and float(thresholded(spot(0, 0, 3)).min()) == 0.0


def test_edits_name_a_word_and_a_property() -> None:
    assert asked({"hat:x": 0.2, "hat:size": 2.0}) == {"hat": {"x": 0.2, "size": 2.0}}
    for wrong in ("hat", "hat:colour", ":x:"):
        with pytest.raises(UserError, match="not understood"):
            asked({wrong: 1.0})
    with pytest.raises(UserError, match="does not say 'moon'"):
        tiny(SD).generate(prompt="a hat", edits={"moon:x": 0.1}, sampling=SHORT, scheme="self-guidance")


@pytest.mark.parametrize("family", [SD, SD3])
def test_the_network_attends_more_to_where_the_word_was_moved(family: str) -> None:
    backbone = tiny(family)
    centres = []
    for strength, shift in ((0.0, 0.3), (300.0, 0.3), (300.0, -0.3)):
        target = Target(prompt="a hat", n=1, edits={"hat:x": shift}, sampling={"steps": 4, "guidance": 1.0})
        scheme = SelfGuidance(strength=strength, keep=0.0)
        drawn = scheme.generate(backbone, [], target, rng=Random(0), progress=Silent())
        with backbone.bound() as view, torch.no_grad():
            x = backbone.encode(view, drawn)
            level = backbone.levels(4)[2]
            noised = level.a * x + level.s * Random(1).normal([0], x.shape[1:])
            centres.append(
                float(Watch(backbone, view, "a hat", ["hat"], count=1).see(noised, level)["hat"].centre[0, 0])
            )
        if strength == 0:
            with backbone.bound() as view:
                plain = sample_latents(view, Target(prompt="a hat", n=1, sampling=target.sampling), rng=Random(0))
                with torch.no_grad():
                    assert torch.equal(drawn, backbone.decode(view, plain).clamp(0, 1))
    assert centres[2] < centres[1], centres


def test_each_scheme_says_by_its_class_where_it_runs() -> None:
    where = {name: {b for b, cls in backbones if not lacked(cls, schemes.get(name).needs)} for name in
             ("stable-flow", "rb-modulation", "instant-style", "self-guidance")}  # fmt: skip
    four = {SD, XL, SD3, "flux"}
    assert where["stable-flow"] == where["rb-modulation"] == where["self-guidance"] == four
    assert where["instant-style"] == {XL}
