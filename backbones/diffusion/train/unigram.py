"""A T5 tokenizer whose vocabulary is that of the captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from transformers import T5Tokenizer

_SPACE = "\u2581"
# Log-probabilities: a word of the captions is always likelier than its letters, which are at least two.
_WORD, _LETTER = -1.0, -3.0
_PRINTABLE = [chr(code) for code in range(33, 127)]


def build_tokenizer(vocabulary: Iterable[str], *, max_length: int) -> T5Tokenizer:
    """A T5Tokenizer (unigram language model, Kudo 2018) in which every word of `vocabulary` is one token.

    Any other text falls back to printable ASCII characters; what is none of them is <unk>. Ids: <pad>, </s>,
    <unk>, the space, the characters, the words. It tells capitals from small letters, as T5 does.
    """
    words: dict[str, None] = {}
    for text in vocabulary:
        words.update((_SPACE + word, None) for word in text.split())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (_SPACE, -2.0)]
    pieces += [(letter, _LETTER) for letter in _PRINTABLE]
    pieces += [(word, _WORD) for word in words]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


def tokenize(tokenizer: T5Tokenizer, texts: Sequence[str]) -> Tensor:
    """Ids int64 [B, L], padded to the tokenizer's length, as the transformer always reads them."""
    found: Tensor = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )["input_ids"]
    return found
