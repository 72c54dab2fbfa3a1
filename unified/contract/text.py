"""Prompts with concept names in them, for any tokenizer.

A name's rows get negative ids: no vocabulary is touched, and nothing that looks at ids (pooling at the
largest one, for example) can take them for a token. The embedding replaces them, see `RowEmbedding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]: ...


def token_ids(tokenizer: Tokenizer, prompt: str, rows: Mapping[str, Sequence[int]]) -> list[int]:
    """Ids of `prompt` without special tokens; each name in `rows` becomes its (negative) ids.

    The space before a name is dropped: byte-level vocabularies would turn it into a token of its own.
    """
    if not rows:
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    pattern = "(" + "|".join(re.escape(name) for name in sorted(rows, key=len, reverse=True)) + ")"
    ids: list[int] = []
    for part in re.split(pattern, prompt):
        if part in rows:
            ids.extend(rows[part])
        elif part.strip():
            ids.extend(tokenizer(part.rstrip(), add_special_tokens=False)["input_ids"])
    return ids


class RowEmbedding(nn.Module):
    """An embedding whose negative ids are rows given from outside, read at each call.

    Stands in a shadow at the place of the embedding `base`; forward: int64 [...] -> [..., width].
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.readers: list[Callable[[], Tensor]] = []

    def add(self, read: Callable[[], Tensor], count: int) -> None:
        """Append `count` rows; `read()` gives them as [count, width] at each call."""
        del count  # the ids were handed out by the view in the same order
        self.readers.append(read)

    @property
    def weight(self) -> Tensor:
        value = self.base.weight
        assert isinstance(value, Tensor)
        return value

    def forward(self, ids: Tensor) -> Tensor:
        known: Tensor = self.base(ids.clamp(min=0))
        named = ids < 0
        if not bool(named.any()):
            return known
        table = torch.cat([read() for read in self.readers]).to(known.dtype)
        rows = table[(-1 - ids).clamp(min=0)]
        return torch.where(named.unsqueeze(-1), rows, known)
