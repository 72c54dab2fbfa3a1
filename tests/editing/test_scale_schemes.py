"""Reference pictures beside a picture that is drawn scale by scale: injection and style."""

from __future__ import annotations

import math

import pytest
import torch

from editing.scale_injection import ScaleInjection
from editing.scale_style import ScaleStyle, blended
from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.spaces.scale_reference import ScaleReference
from inversion.spaces.textual import Word
from inversion.spaces.token import VisualTokens
from tests.tiny.families import FAMILIES, pictures, tiny
from unified.contract.abilities import lacked
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.scheme import Scheme
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert

PROMPT = "a person <me>"


def concept(space: Space, method=None, *, count: int = 1, name: str = "<me>") -> Concept:  # type: ignore[no-untyped-def]
    backbone = tiny("var")
    recipe = Recipe("t", (Stage((space,), method or Encode()),), scheme="", cite="", carrier="a")
    return invert(backbone, pictures(backbone, count), recipe, InvertSettings()).renamed(name)


def make(
    concepts: list[Concept], prompt: str = PROMPT, *, scheme: str | Scheme | None = None, source: str = "", **sampling
):  # type: ignore[no-untyped-def]
    # At a temperature, and with guidance at which small differences show.
    settings = {"temperature": 1.0, "guidance": 3.0, "guidance_until": 1.0, **sampling}
    target = Target(prompt=prompt, source=source, n=2, sampling=settings)
    if isinstance(scheme, Scheme):
        return scheme.generate(tiny("var"), concepts, target, rng=Random(0).child("generate"), progress=Silent())
    return generate(tiny("var"), concepts, target, scheme=scheme)


def test_injection_is_the_reference_bound_as_keys_and_values() -> None:
    tokens, memory = concept(VisualTokens()), concept(ScaleReference())
    injected = make([tokens], scheme="scale-injection")
    assert torch.equal(injected, make([memory]))
    assert not torch.equal(injected, make([], "a person a"))
    assert torch.equal(make([tokens.scaled(0.0)], scheme="scale-injection"), make([], "a person a"))
    assert torch.equal(make([memory.scaled(0.0)]), make([], "a person a"))


def test_gates_of_place_and_scale() -> None:
    tokens = concept(VisualTokens())
    plain, full = make([], "a person a"), make([tokens], scheme="scale-injection")
    assert torch.equal(make([tokens], scheme="scale-injection", gate=[[0]]), plain)
    assert torch.equal(make([tokens], scheme="scale-injection", gate=[[1, 1]], gate_scales=(1.0, 1.0, 1.0)), full)
    one = make([tokens], scheme="scale-injection", gate_scales=(0.0, 1.0, 0.0))
    assert torch.equal(one, make([tokens], scheme=ScaleInjection(scales=(1,))))
    assert not torch.equal(one, full) and not torch.equal(one, plain)
    layer = make([tokens], scheme=ScaleInjection(layers=(1,)))
    assert not torch.equal(layer, full) and not torch.equal(layer, plain)


def test_a_place_that_sees_nothing_draws_as_if_alone() -> None:
    """Only the lower half of the last scale sees the reference, in the last layer: all other tokens are the same."""
    tokens, backbone = concept(VisualTokens()), tiny("var")
    found = []
    original = backbone.images.decode  # type: ignore[attr-defined]
    backbone.images.decode = lambda codes: found.append(codes) or original(codes)  # type: ignore[attr-defined]
    try:
        # In an earlier layer the upper half would see it too, through the lower one.
        injection = ScaleInjection(layers=(1,))
        make([tokens], scheme=injection, gate=[[0, 0], [1, 1]], gate_scales=(0.0, 0.0, 1.0), temperature=0)
        make([], "a person a", temperature=0)
    finally:
        del backbone.images.decode  # type: ignore[attr-defined]
    injected, plain = found
    assert torch.equal(injected[:, :13], plain[:, :13])
    assert not torch.equal(injected[:, 13:], plain[:, 13:])


def test_queries_move_to_the_contents_by_how_much_they_disagree() -> None:
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0]).deg2rad()
    own = torch.stack([torch.tensor([1.0, 0.0, 1.0, 0.0])] * 4)[None]
    content = torch.stack([angles.cos(), angles.sin(), torch.ones(4), torch.zeros(4)], dim=1)[None]
    found = blended(own, content, heads=2, strength=1.0)
    assert torch.equal(found[..., 2:], own[..., 2:])  # the second head agrees everywhere
    half = (own + content)[0, 1, :2] / 2
    assert torch.allclose(found[0, 0, :2], own[0, 0, :2]) and torch.allclose(found[0, 1, :2], half, atol=1e-6)
    assert torch.allclose(found[0, 2:, :2], content[0, 2:, :2], atol=1e-6)
    assert torch.equal(blended(own, content, heads=2, strength=0.0), own)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_style_of_no_weight_is_the_content_alone(guidance: float) -> None:
    """Then all three paths are one: nothing to attend to, and queries that agree."""
    tokens = concept(VisualTokens())
    found = make([tokens.scaled(0.0)], scheme="scale-style", guidance=guidance)
    assert torch.equal(found, make([], "a person", guidance=guidance))


def test_style_is_attended_to_in_the_first_scales_and_queries_shared_in_the_others() -> None:
    tokens = concept(VisualTokens())
    found = make([tokens], scheme="scale-style", guidance=8.0)
    shared = make([tokens], scheme=ScaleStyle(queries=0.0), guidance=8.0)
    assert torch.equal(shared, make([tokens], "a person", scheme=ScaleInjection(scales=(0, 1)), guidance=8.0))
    assert not torch.equal(found, shared)
    # With every scale a key stage no query is left to share.
    whole = make([tokens], scheme=ScaleStyle(until=1.0))
    assert torch.equal(whole, make([tokens], "a person", scheme=ScaleInjection()))
    assert not torch.equal(found, make([tokens], scheme="scale-style", source="a zebra", guidance=8.0))
    assert torch.equal(found, make([tokens], "<me> a person", scheme="scale-style", guidance=8.0))


def test_style_beside_a_learnt_word_and_a_lora() -> None:
    """The style of one concept's picture, the content of another's word and a third's weights: each counts."""
    style = concept(VisualTokens(), name="<style>")
    word = concept(Word(vectors=2), Optimize(steps=2, lr=0.5))
    lora = concept(LoRA(rank=2), Optimize(steps=3, lr=0.1), name="<sks>")
    prompt = "<me> <sks> <style>"
    full = make([style, word, lora], prompt, scheme="scale-style")
    assert torch.equal(full, make([lora, style, word], prompt, scheme="scale-style"))
    assert not torch.equal(full, make([style.scaled(0.0), word, lora], prompt, scheme="scale-style"))
    assert not torch.equal(full, make([style, word, lora.scaled(0.0)], prompt, scheme="scale-style"))
    assert not torch.equal(full, make([style, lora], "a <sks> <style>", scheme="scale-style"))


def test_what_makes_no_sense_is_refused() -> None:
    for scheme in (ScaleInjection(), ScaleStyle()):
        able = [family for family in FAMILIES if not lacked(type(tiny(family)), scheme.needs)]
        assert able == ["var"]
    word = concept(Word(), Optimize(steps=1))
    for scheme in ("scale-injection", "scale-style"):
        with pytest.raises(UserError, match="recipe='tokenize'"):
            make([word], scheme=scheme)
    with pytest.raises(UserError, match="needs a prompt"):
        make([concept(VisualTokens())], "", scheme="scale-style")
    with pytest.raises(UserError, match="scales 0 to 2"):
        make([concept(VisualTokens())], scheme=ScaleInjection(scales=(5,)))
    with pytest.raises(UserError, match="layers 0 to 1"):
        concept(ScaleReference(layers=(7,)))


def test_two_references_stand_side_by_side() -> None:
    one, two = concept(ScaleReference(references=1), count=2), concept(ScaleReference(references=2), count=2)
    keys = two.codes[0].tensors["keys"]
    assert keys.shape[2] == 42
    assert torch.equal(keys[:, :, :21], one.codes[0].tensors["keys"])
    assert not torch.equal(make([one]), make([two]))
    # The same picture twice is one picture of twice the weight.
    code = one.codes[0]
    twice = one.with_codes([code.map(lambda t: torch.cat([t, t], 2))])
    target = Target(PROMPT, n=1, sampling={"temperature": 0})
    assert torch.allclose(
        generate(tiny("var"), [twice], target), generate(tiny("var"), [one.scaled(2.0)], target), atol=1e-4
    )
    assert math.isfinite(float(make([two]).mean()))
