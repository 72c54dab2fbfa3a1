"""Answers about pictures against transformers' own forward passes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from inversion.methods.optimize import Optimize
from inversion.spaces.remembered import Prefix
from inversion.spaces.textual import Word
from tests.tiny.families import pictures, tiny
from unified.contract.recipe import Recipe, Stage
from unified.contract.tokens import Answers
from unified.contract.view import View
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

MODELS = ["emu3", "janus", "chameleon"]
EACH = pytest.mark.parametrize("family", MODELS)
QUESTIONS = ["is a person with short brown hair in this picture?", "a person?"]
ANSWERS = ["yes", "no, a zebra"]


def nats(view: View, reference, questions=QUESTIONS, answers=ANSWERS) -> torch.Tensor:  # type: ignore[no-untyped-def]
    assert isinstance(view.backbone, Answers)
    return view.backbone.answer_error(view, reference, questions, answers)


def expected(family: str, reference, row: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The answer's cross-entropy by the model's own forward pass; Chameleon's hides visual tokens itself."""
    backbone = tiny(family)
    model, tokenizer = backbone.components["model"], backbone.tokenizer  # type: ignore[attr-defined]

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    said = plain(f" {ANSWERS[row]}")
    if family == "janus":
        placeholders = [model.config.image_token_id] * 16
        ids = [backbone.begin, *plain("<|User|>: "), backbone.image_start, *placeholders, backbone.image_end]  # type: ignore[attr-defined]
        ids += plain(f"\n{QUESTIONS[row]}\n\n<|Assistant|>:") + said
        pixels = reference.images[row : row + 1] * 2 - 1
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    else:
        builder = backbone.builder  # type: ignore[attr-defined]
        codes = backbone.codes(None, reference.images)[row]  # type: ignore[attr-defined]
        ids = builder.beginning() + builder.picture_ids(codes) + plain(QUESTIONS[row]) + said
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        logits[:, backbone.vocabulary.ids] = -torch.inf  # type: ignore[attr-defined]
    return functional.cross_entropy(logits[-len(said) - 1 : -1], torch.tensor(said))


@EACH
@torch.no_grad()
def test_answers_are_what_the_model_itself_would_say(family: str) -> None:
    """Two lines of different lengths in one batch, so the shorter one is padded on the left."""
    backbone = tiny(family)
    reference = pictures(backbone, 2)
    with backbone.bound() as view:
        found = nats(view, reference)
    assert torch.allclose(found, torch.stack([expected(family, reference, row) for row in (0, 1)]), atol=1e-4)
    assert found[0] != found[1]


@EACH
@torch.no_grad()
def test_the_picture_and_the_company_of_other_pictures(family: str) -> None:
    backbone = tiny(family)
    reference = pictures(backbone, 2)
    with backbone.bound() as view:
        both = nats(view, reference)
        alone = nats(view, reference.pick([1]), QUESTIONS[1:], ANSWERS[1:])
        swapped = nats(view, reference.pick([1, 0]))
    assert torch.allclose(both[1:], alone, atol=1e-5)
    if family != "chameleon":  # whose tiny tokenizer has one code for everything
        assert not torch.allclose(both, swapped, atol=1e-4)


@EACH
def test_a_word_in_the_question_learns_from_the_answer(family: str) -> None:
    backbone = tiny(family)
    reference = pictures(backbone, 2)
    recipe = Recipe("t", (Stage((Word(vectors=2),), Optimize(steps=1)),), scheme="", cite="")
    concept = invert(backbone, reference, recipe, InvertSettings())
    rows = concept.codes[0].tensors["model"].requires_grad_()
    with backbone.bound(concept) as view:
        nats(view, reference, ["is <me> here?", "who?"]).sum().backward()
    assert rows.grad is not None and bool((rows.grad.abs().sum(1) > 0).all())


@torch.no_grad()
def test_what_is_remembered_counts_and_an_empty_answer_is_refused() -> None:
    backbone = tiny("emu3")
    reference = pictures(backbone, 2)
    recipe = Recipe("t", (Stage((Prefix(length=2),), Optimize(steps=1)),), scheme="", cite="")
    concept = invert(backbone, reference, recipe, InvertSettings())
    with backbone.bound(concept) as view, backbone.bound(concept.scaled(0.0)) as hidden, backbone.bound() as plain:
        assert not torch.allclose(nats(view, reference), nats(plain, reference), atol=1e-3)
        assert torch.allclose(nats(hidden, reference), nats(plain, reference), atol=1e-3)
        with pytest.raises(UserError, match="without words"):
            nats(plain, reference, answers=["yes", ""])
