from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from backbones.diffusion.train.tokenizer import (
    END,
    MAX_LENGTH,
    START,
    build_tokenizer,
    byte_tokenizer,
    learn_merges,
    split_words,
)
from unified.avatars import captions

TOKENIZER = build_tokenizer(captions.vocabulary())


def test_merges_of_a_worked_example() -> None:
    # Pairs of low, lower, lowest: l+o and o+w+... occur three times; "l o" comes first in the alphabet.
    merges = learn_merges(["low", "lower"])
    assert merges[0] == ("l", "o")
    assert merges[1] == ("lo", "w</w>") or merges[1] == ("e", "r</w>")
    assert {first + second for first, second in merges} >= {"low</w>", "lower</w>"}


def test_every_word_of_the_captions_is_one_token() -> None:
    for word in split_words(captions.vocabulary()):
        assert TOKENIZER.tokenize(word) == [word + "</w>"]


def test_hyphens_split_words() -> None:
    assert split_words(["T-shirt", "side-swept"]) == ["t", "-", "shirt", "side", "swept"]


def test_special_tokens_and_padding() -> None:
    ids = TOKENIZER("a person smiling", padding="max_length")["input_ids"]
    assert len(ids) == MAX_LENGTH == TOKENIZER.model_max_length
    assert ids[0] == TOKENIZER.bos_token_id == TOKENIZER.convert_tokens_to_ids(START)
    assert ids[4:] == [TOKENIZER.eos_token_id] * (MAX_LENGTH - 4)
    assert TOKENIZER.eos_token_id == TOKENIZER.pad_token_id == TOKENIZER.convert_tokens_to_ids(END)
    # Pooling at the highest id and at the first end token agree.
    assert TOKENIZER.eos_token_id == len(TOKENIZER) - 1


def test_case_does_not_matter() -> None:
    assert TOKENIZER("A Person SMILING")["input_ids"] == TOKENIZER("a person smiling")["input_ids"]


@pytest.mark.parametrize("text", ["xyzzy", "ünïcödé", "日本語", "🙂", "sunglasseses", "<me>", "40%"])
def test_unseen_words_come_back(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.eos_token_id not in ids[:-1]
    assert TOKENIZER.decode(ids, skip_special_tokens=True).replace(" ", "") == text


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=8))
def test_any_text_tokenises_without_an_unknown(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert all(0 <= token < len(TOKENIZER) for token in ids)
    assert TOKENIZER.unk_token_id not in ids[:-1] or END in text


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "a portrait of a person wearing sunglasses, xyzzy 日本"
    assert loaded(text, padding="max_length")["input_ids"] == TOKENIZER(text, padding="max_length")["input_ids"]
    assert (loaded.model_max_length, loaded.eos_token_id) == (MAX_LENGTH, TOKENIZER.eos_token_id)


def test_byte_tokenizer_has_514_tokens() -> None:
    assert len(byte_tokenizer()) == 514
    assert byte_tokenizer().tokenize("ab") == ["a", "b</w>"]
