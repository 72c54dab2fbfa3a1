"""Token replacement, injection of keys and values, and several concepts in a model that draws with tokens."""

from __future__ import annotations

import pytest
import torch

from editing.reference_injection import ReferenceInjection
from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.spaces.remembered import Prefix, ReferenceMemory
from inversion.spaces.textual import Word
from inversion.spaces.token import VisualTokens
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert


def run(*stages, count: int = 1, name: str = "<me>") -> Concept:  # type: ignore[no-untyped-def]
    backbone = tiny("emu3")
    recipe = Recipe("test", tuple(Stage((s,), m) for s, m in stages), scheme="", cite="", carrier="a")
    return invert(backbone, pictures(backbone, count), recipe, InvertSettings()).renamed(name)


def make(concepts: list[Concept], prompt: str = "", *, scheme: str | None = None, **sampling) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return generate(tiny("emu3"), concepts, Target(prompt=prompt, n=2, sampling=sampling), scheme=scheme)


def test_replacing_tokens_changes_only_what_it_may() -> None:
    tokens = run((VisualTokens(), Encode()))
    lower = make([tokens], "a photo of <me>", scheme="replace-tokens", redraw=[[0], [1]])
    backbone = tiny("emu3")
    source = backbone.decode_codes(None, tokens.codes[0].tensors["tokens"])  # type: ignore[attr-defined]
    # The kept tokens are those of the picture: nothing drawn anew is the picture again.
    kept = make([tokens], scheme="replace-tokens", redraw=[[0]])[0]
    assert torch.allclose(kept, source[0], atol=1e-5)
    assert not torch.allclose(lower[0], source[0], atol=1e-2)
    with pytest.raises(UserError, match="redraw"):
        make([tokens], scheme="replace-tokens")
    with pytest.raises(UserError, match="no visual tokens"):
        make([run((Prefix(length=1), Optimize(steps=1)))], scheme="replace-tokens", redraw=[[1]])


def test_injection_in_all_layers_is_the_reference_memory() -> None:
    tokens, memory = run((VisualTokens(), Encode())), run((ReferenceMemory(), Encode()))
    prompt = "a photo of <me>"
    injected = make([tokens], prompt, scheme="reference-injection")
    assert torch.equal(injected, make([memory], prompt))
    closed = make([tokens], prompt, scheme="reference-injection", gate=[[0, 0], [0, 0]])
    assert not torch.equal(injected, closed)
    backbone = tiny("emu3")
    one = ReferenceInjection(layers=(1,)).generate(
        backbone,
        [tokens],
        Target(prompt=prompt, n=2),
        rng=Random(0).child("generate"),
        progress=Silent(),
    )
    assert not torch.equal(one, injected)
    with pytest.raises(UserError, match="no concept brings pictures"):
        make([run((Prefix(length=1), Optimize(steps=1)))], prompt, scheme="reference-injection")


def test_several_concepts_each_count() -> None:
    """A word, a memory and a LoRA of three concepts in one prompt: each changes the picture."""
    word = run((Word(vectors=2), Optimize(steps=2, lr=0.5)), name="<one>")
    memory = run((ReferenceMemory(), Encode()), name="<two>")
    lora = run((LoRA(rank=2), Optimize(steps=3, lr=0.1)), name="<three>")
    prompt = "a <one> a <two> a <three>"
    full = make([word, memory, lora], prompt)
    assert torch.equal(full, make([lora, word, memory], prompt))
    assert not torch.equal(full, make([word, memory.scaled(0.0), lora], prompt))
    assert not torch.equal(full, make([word, memory, lora.scaled(0.0)], prompt))


@pytest.mark.parametrize("family", ["emu3", "janus", "var"])
def test_several_words_and_loras_in_one_prompt(family: str) -> None:
    """Two concepts of a word and a LoRA each (token and weights together), in one prompt: every part counts."""
    backbone = tiny(family)
    stage = Stage((Word(vectors=2), LoRA(rank=2)), Optimize(steps=3, lr=0.1))
    recipe = Recipe("test", (stage,), scheme="", cite="")
    one, two = (
        invert(backbone, pictures(backbone, 2, seed=seed), recipe, InvertSettings()).renamed(name)
        for seed, name in ((0, "<one>"), (1, "<two>"))
    )

    def draw(prompt: str, *concepts: Concept) -> torch.Tensor:
        return generate(backbone, concepts, Target(prompt=prompt, n=1), seed=0)

    prompt = "a <one> a <two>"
    both = draw(prompt, one, two)
    # Low-rank changes add up in the order of binding, so another order agrees to rounding of the sum.
    with torch.no_grad(), backbone.bound(one, two) as view, backbone.bound(two, one) as swapped:
        codes = backbone.codes(view, pictures(backbone, 1).images)  # type: ignore[attr-defined]
        found, other = (backbone.logits(v, [prompt], codes) for v in (view, swapped))  # type: ignore[attr-defined]
    assert torch.allclose(found, other, atol=1e-3)
    words = [concept.with_codes(concept.codes[:1]) for concept in (one, two)]
    assert not torch.equal(both, draw("a <two> a <one>", one, two))
    with torch.no_grad():
        for concepts in ((words[0], two), (one, words[1])):
            with backbone.bound(*concepts) as view:
                assert not torch.allclose(found, backbone.logits(view, [prompt], codes), atol=1e-2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["emu3", "janus", "var"])
def test_part_of_a_picture_is_drawn_anew_as_learnt_concepts_say(family: str) -> None:
    """Masked replacement with a word and a LoRA of another concept: the kept tokens stay, in every scale."""
    backbone = tiny(family)

    def concept(*spaces, method=None, name: str) -> Concept:  # type: ignore[no-untyped-def]
        recipe = Recipe("test", (Stage(spaces, method or Encode()),), scheme="", cite="", carrier="a person")
        return invert(backbone, pictures(backbone, 1), recipe, InvertSettings()).renamed(name)

    picture = concept(VisualTokens(), name="<picture>")
    person = concept(Word(vectors=2), LoRA(rank=2), method=Optimize(steps=3, lr=0.3), name="<me>")
    drawn: list[torch.Tensor] = []
    original = backbone.images.decode  # type: ignore[attr-defined]
    backbone.images.decode = lambda codes: drawn.append(codes.flatten(1)) or original(codes)  # type: ignore[attr-defined]
    sampling = {"redraw": [[0, 0], [1, 1]], "temperature": 0}
    try:
        for concepts, prompt in (([picture, person], "<picture> with <me>"), ([picture], "<picture> with a person")):
            target = Target(prompt=prompt, n=1, sampling=sampling)
            generate(backbone, concepts, target, seed=0, scheme="replace-tokens")
    finally:
        del backbone.images.decode  # type: ignore[attr-defined]
    sides = getattr(getattr(backbone.images, "settings", None), "sides", (4,))  # type: ignore[attr-defined]
    grid = torch.tensor([[0.0, 0.0], [1.0, 1.0]])[None, None]
    anew = torch.cat([torch.nn.functional.interpolate(grid, size=(s, s), mode="area").flatten() > 0.5 for s in sides])
    source = picture.codes[0].tensors["tokens"].flatten(1)
    for found in drawn:
        assert torch.equal(found[:, ~anew], source[:, ~anew])
    assert not torch.equal(drawn[0][:, anew], drawn[1][:, anew])
