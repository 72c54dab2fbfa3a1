"""Text tokenizer, layouts and prompts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from backbones.autoregressive.layout import PromptLayout, VisualVocabulary, visual_token
from backbones.autoregressive.prompt import concatenate, left_pad
from tests.tiny.autoregressive import TINY_LAYOUT, TINY_RELEASED_LAYOUT, tiny_emu3
from unified.avatars import captions
from unified.avatars.attributes import draw_person, draw_varying
from unified.errors import UserError


@pytest.fixture(scope="module")
def parts():  # type: ignore[no-untyped-def]
    return tiny_emu3()


@pytest.fixture(scope="module")
def released():  # type: ignore[no-untyped-def]
    return tiny_emu3(layout=TINY_RELEASED_LAYOUT)


def test_every_caption_word_is_one_token(parts) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(0)
    for _ in range(300):
        text = captions.caption(draw_person(rng).attributes() | draw_varying(rng), rng)
        assert len(parts.prompts.text_ids(text)) == len(captions.words(text)), text


@pytest.mark.parametrize("text", ["zébra 🦓 <me>", "unbored", "T-shirted, x.y", ""])
def test_any_text_has_tokens_and_none_is_special(parts, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = parts.prompts.text_ids(text)
    assert bool(ids) == bool(text)
    assert not set(ids) & set(parts.vocabulary.ids.tolist())
    assert not set(ids) & set(parts.prompts.tokenizer.all_special_ids)
    decoded = parts.prompts.tokenizer.decode(ids)
    assert decoded.replace(" ", "") == text.lower().replace(" ", "")


def test_a_word_is_not_found_inside_another(parts) -> None:  # type: ignore[no-untyped-def]
    (red,) = parts.prompts.text_ids("red")
    assert red not in parts.prompts.text_ids("bored")
    assert parts.prompts.text_ids("Red, red") == [red, *parts.prompts.text_ids(","), red]


def test_released_layout_is_what_transformers_decodes(released) -> None:  # type: ignore[no-untyped-def]
    codes = torch.randint(0, 16, (2, 4, 4))
    rows = []
    for picture in codes:
        slots = released.prompts.slots(4, 4)
        slots[slots == -1] = released.vocabulary.to_ids(picture.flatten())
        rows.append(slots.tolist() + released.prompts.ending())
    expected = released.model.decode_image_tokens(image_tokens=torch.tensor(rows), height=4, width=4)
    found = released.images.decode_embeddings(released.images.lookup(codes))
    assert torch.allclose(found * 2 - 1, expected, atol=1e-5)


def test_released_layout_is_what_transformers_encodes(released) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(1, 3, 16, 16)
    expected = released.model.model.get_image_tokens(images * 2 - 1, torch.tensor([[16, 16]]))
    ids = released.prompts.picture_ids(released.images.encode(images)[0])
    opening, closing = released.prompts.opening(4, 4), released.prompts.closing()
    assert ids == opening + expected.tolist() + closing
    names = released.prompts.tokenizer.convert_ids_to_tokens(ids)
    assert names[0] == "<|image start|>" and names[-2:] == ["<|extra_201|>", "<|image end|>"]
    assert names[1:4] == ["4", "*", "4"] and names[4] == "<|image token|>"


def test_prompt_order(parts) -> None:  # type: ignore[no-untyped-def]
    codes = torch.randint(0, 16, (4, 4))
    text = parts.prompts.text_ids("a person")
    start, end = (parts.prompts.tokenizer.convert_tokens_to_ids(t) for t in ("<|image start|>", "<|image end|>"))
    visual = parts.vocabulary.to_ids(codes.flatten()).tolist()
    begin = parts.prompts.tokenizer.bos_token_id
    assert parts.prompts.prompt_ids("a person", [codes]) == [begin, start, *visual, end, *text, start]
    assert parts.prompts.prompt_ids("") == [begin, start]
    assert parts.prompts.prompt_ids(text) == [begin, *text, start]


def test_codes_and_ids_are_inverse(parts) -> None:  # type: ignore[no-untyped-def]
    codes = torch.arange(16)
    assert torch.equal(parts.vocabulary.to_codes(parts.vocabulary.to_ids(codes)), codes)
    with pytest.raises(UserError):
        parts.vocabulary.to_codes(torch.tensor([1]))
    with pytest.raises(UserError):
        VisualVocabulary.of({visual_token(0): 5, visual_token(2): 6})


def test_padding_keeps_rows_and_positions() -> None:
    batch = concatenate(left_pad([[5, 6, 7], [8]], 0), left_pad([[1, 2, 3, 4]], 0), 0)
    assert batch.ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8], [1, 2, 3, 4]]
    assert batch.positions.tolist() == [[0, 0, 1, 2], [0, 0, 0, 0], [0, 1, 2, 3]]
    assert batch.mask.sum(1).tolist() == [3, 1, 4]


def test_layout_file(tmp_path: Path) -> None:
    assert PromptLayout.load(tmp_path) == PromptLayout()
    TINY_LAYOUT.save(tmp_path)
    assert PromptLayout.load(tmp_path) == TINY_LAYOUT
    (tmp_path / "layout.json").write_text("{broken")
    with pytest.raises(UserError):
        PromptLayout.load(tmp_path)
