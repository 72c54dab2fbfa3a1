"""A CLIP tokenizer whose vocabulary is that of the captions.

Byte-pair merges are learned on the vocabulary until every word is one token; any other text falls back to
the shared pieces and, in the end, to bytes, so nothing is ever unknown (Sennrich et al. 2016, algorithm 1;
the byte alphabet is GPT-2's).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START = "<|startoftext|>"
END = "<|endoftext|>"
MAX_LENGTH = 48
END_OF_WORD = "</w>"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes, sorted."""
    return sorted(ByteLevel.alphabet())


def byte_tokenizer() -> CLIPTokenizer:
    """The tokenizer without any merge: two special tokens and 512 bytes (inside and at the end of a word)."""
    return _assemble([])


def split_words(texts: Iterable[str]) -> list[str]:
    """The distinct pre-tokens of `texts` in the byte alphabet, lower case, in order of first appearance.

    CLIP's pre-tokenizer decides what a word is: "T-shirt" gives "t", "-", "shirt".
    """
    backend = byte_tokenizer().backend_tokenizer
    words: dict[str, None] = {}
    for text in texts:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        words.update((piece, None) for piece, _ in pieces)
    return list(words)


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order of priority, that turn every one of `words` into a single token.

    The most frequent pair is merged first, ties go to the alphabetically first pair. Tokenising applies
    merges in the same order as learning them, so a learned word always comes out whole.
    """
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in pieces for pair in itertools.pairwise(word))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]


def build_tokenizer(vocabulary: Iterable[str], *, max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """A CLIPTokenizer in which every word of `vocabulary` is one token.

    Ids: 256 bytes, 256 bytes that end a word, one per merge, start, end. The end token has the highest id
    and also pads, as in CLIP; write `tokenizer.eos_token_id` into the text encoder's configuration, since
    pooling at the highest id breaks as soon as a token is added behind it.
    """
    return _assemble(learn_merges(split_words(vocabulary)), max_length=max_length)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def _assemble(merges: Sequence[tuple[str, str]], *, max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(byte + END_OF_WORD for byte in alphabet)]
    # Two different merges may give the same piece ("a"+"bc" and "ab"+"c"): one id for both.
    tokens.extend(dict.fromkeys(first + second for first, second in merges))
    tokens.extend((START, END))
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(merges),
        model_max_length=max_length,
    )
