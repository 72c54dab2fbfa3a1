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
