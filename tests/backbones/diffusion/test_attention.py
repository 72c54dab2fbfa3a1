"""Attention editors: invisible when they do nothing, exact when they do something."""

from __future__ import annotations

import pytest
import torch

from inversion.spaces.parameter import LoRA
from tests.tiny.families import pictures, tiny
from unified.contract.attention import Editor, reads_probabilities
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.target import Target
from unified.errors import UserError

BOTH = pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
SHORT = {"steps": 3}


class Silent(Editor):
    """Asks to see everything and changes nothing; keeps what it saw."""

    def __init__(self) -> None:
        self.seen = []

    def project(self, call) -> None:
        self.seen.append(call)


class Watching(Silent):
    """The same through explicit probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = []

    def probabilities(self, call, probabilities):
        self.rows.append(probabilities)
        return probabilities


def draw(family: str, *editors: Editor, concepts: tuple = (), prompt: str = "a red hat") -> torch.Tensor:
    with tiny(family).bound(*concepts) as view:
        if editors:
            view.edit_attention(*editors)
        return view.sample(Target(prompt=prompt, n=2, sampling=SHORT), rng=Random(0))


def loud_lora(family: str) -> Concept:
    backbone = tiny(family)
    with backbone.bound() as view:
        code = LoRA(rank=2).initial(view, pictures(backbone), rng=Random(0))
    return Concept([code.map(lambda t: torch.full_like(t, 0.3))], name="red")


@BOTH
@pytest.mark.parametrize("adapted", [False, True])
def test_a_silent_editor_changes_no_bit(family: str, adapted: bool) -> None:
    """Also with a LoRA bound: the projections that it changes are the ones called."""
    concepts = (loud_lora(family),) if adapted else ()
    editor = Silent()
    assert torch.equal(draw(family, editor, concepts=concepts), draw(family, concepts=concepts))
    assert {call.place for call in editor.seen} == set(tiny(family).places())
    if adapted:
        assert not torch.equal(draw(family, editor, concepts=concepts), draw(family, editor))


@BOTH
def test_explicit_probabilities_are_the_fused_ones(family: str) -> None:
    editor = Watching()
    assert reads_probabilities(editor) and not reads_probabilities(Silent())
    assert torch.allclose(draw(family, editor), draw(family), atol=1e-5)
    for call, rows in zip(editor.seen, editor.rows, strict=True):
        assert torch.allclose(rows.sum(-1), torch.ones(()), atol=1e-5)
        queries, keys = call.picture_queries, rows.shape[-1]
        assert call.size[0] * call.size[1] == queries.stop - queries.start
        text, picture = (len(range(*part.indices(keys))) for part in (call.text, call.picture))
        assert text + picture == keys


@BOTH
def test_editors_know_the_time_and_its_direction(family: str) -> None:
    editor = Silent()
    draw(family, editor)
    times = [float(call.time[0]) for call in editor.seen]
    assert times == sorted(times, reverse=True) and 1 >= times[0] > 0.5 > times[-1] > 0


class Halved(Editor):
    def wants(self, place) -> bool:
        return place.kind != "self" and place.number == 0

    def project(self, call) -> None:
        call.value = call.value / 2


class HalvedAfter(Halved):
    def project(self, call) -> None:
        pass

    def probabilities(self, call, probabilities):
        return probabilities / 2


@BOTH
def test_half_the_values_are_half_the_probabilities(family: str) -> None:
    one, other = draw(family, Halved()), draw(family, HalvedAfter())
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, draw(family), atol=1e-6)


class OtherText(Editor):
    """Replaces what keys and values are made from by another prompt's text."""

    def __init__(self, text: torch.Tensor) -> None:
        self.text = text

    def inputs(self, place, keys, values):
        return self.text, self.text


def test_inputs_replace_the_prompt() -> None:
    """Every cross-attention given another prompt's text: that prompt's picture, bit for bit."""
    backbone = tiny("stable-diffusion")
    with backbone.bound() as view, torch.no_grad():
        texts = torch.cat([backbone.condition(view, [p] * 2)["text"] for p in ("", "a blue sea")])
    assert torch.equal(draw("stable-diffusion", OtherText(texts)), draw("stable-diffusion", prompt="a blue sea"))


@BOTH
def test_an_editor_stays_in_its_view(family: str) -> None:
    backbone = tiny(family)
    with backbone.bound() as view:
        view.edit_attention(Halved())
    component, _ = backbone.tunable()
    for place in backbone.places():
        assert "diffusers" in type(backbone.components[component].get_submodule(place.name).processor).__module__


def test_places_are_in_the_order_of_the_calls() -> None:
    editor = Silent()
    backbone = tiny("stable-diffusion")
    draw("stable-diffusion", editor)
    for kind in ("self", "cross"):
        called = [call.place for call in editor.seen if call.place.kind == kind]
        expected = [place for place in backbone.places() if place.kind == kind]
        assert called == expected * 3
    assert len(backbone.text_layers()) == len([p for p in backbone.places() if p.kind == "cross"])


@BOTH
def test_maps_say_where_the_picture_attends_to_the_name(family: str) -> None:
    """Probabilities put on the name's token alone by an editor come out as maps of ones, elsewhere as zeros."""
    backbone = tiny(family)
    concept = Concept(loud_lora(family).codes, name="<me>", carrier="zq")
    reference = pictures(backbone, 2)
    prompts = ["a <me> b", "b"]

    class OnName(Editor):
        def probabilities(self, call, probabilities):
            if call.place.kind == "self":
                return probabilities
            with backbone.bound() as plain:
                said = backbone.token_places(plain, ["a zq b", "a zq b"], "zq")
            rows = torch.zeros_like(probabilities)
            rows[..., call.text] = said[:, None, None].to(rows.dtype)
            return rows

    with backbone.bound(concept) as view, torch.no_grad():
        view.edit_attention(OnName())
        view.watch()
        attempt = view.attempt(reference, rng=Random(0), prompts=prompts)
    found = attempt.maps["<me>"]
    assert found.shape[0] == 2 and found.ndim == 3
    assert torch.allclose(found[0], torch.ones(())) and torch.equal(found[1], torch.zeros_like(found[1]))


def test_a_processor_of_another_is_not_switched_off_silently() -> None:
    from tests.tiny import diffusion as tiny_diffusion

    backbone = tiny_diffusion.stable_diffusion()

    class IPAdapterAttnProcessor2_0:
        pass

    backbone.components["unet"].get_submodule(backbone.places()[0].name).processor = IPAdapterAttnProcessor2_0()
    with backbone.bound() as view, pytest.raises(UserError, match="IPAdapterAttnProcessor2_0"):
        view.edit_attention(Silent())


def test_a_backbone_without_attention_refuses() -> None:
    with tiny("stylegan").bound() as view, pytest.raises(UserError, match="cannot be edited"):
        view.edit_attention(Silent())
