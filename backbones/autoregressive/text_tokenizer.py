"""A word-level tokenizer in the joint vocabulary of a small Emu3, built offline.

Each known word is one token; anything else falls back to its bytes, so that any text has tokens and
tokenising loses nothing but case and the spaces before known words.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from backbones.autoregressive.layout import PromptLayout, visual_token

IMAGE_PLACEHOLDER = "<image>"


def build_text_tokenizer(words: Iterable[str], *, codes: int, layout: PromptLayout) -> PreTrainedTokenizerFast:
    """Tokens in this order: special tokens, 256 bytes, words and punctuation, `codes` visual tokens.

    words: single words or punctuation marks; case and repetitions do not matter, order does not either.
    The special tokens carry the names of the released Emu3, whether `layout` uses them or not.
    """
    special = _special_tokens(layout)
    vocabulary: dict[str, int] = {}
    for token in special + sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([_word_token(word) for word in sorted({word.lower() for word in words})])
    tokenizer.add_special_tokens([visual_token(code) for code in range(codes)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=layout.pad,
        bos_token=layout.begin,
        eos_token=layout.end,
        clean_up_tokenization_spaces=False,
    )


def _special_tokens(layout: PromptLayout) -> list[str]:
    released = PromptLayout()
    names = [layout.pad, layout.begin, layout.end, IMAGE_PLACEHOLDER, layout.image_start, layout.image_end]
    for name in (released.image_token, released.end_of_line, released.end_of_frame):
        if name is not None:
            names.append(name)
    return names


def _word_token(word: str) -> AddedToken:
    # A word counts only where it stands alone; a mark (",", ".") may touch its neighbours.
    alone = any(letter.isalnum() for letter in word)
    return AddedToken(word, single_word=alone, lstrip=True, normalized=True)
