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

    def __len__(self) -> int:
        """How many tokens there are."""
        ...


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

    Stands in a shadow at the place of the embedding `base`; forward: int64 [N, tokens] -> [N, tokens, width].
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.readers: list[tuple[int, Callable[[], Tensor]]] = []

    def add(self, read: Callable[[], Tensor], first: int) -> None:
        """Let ids `first`, `first - 1`, ... be rows that `read()` gives at each call.

        It gives [count, width], or [N, count, width] where the rows differ between the lines of a batch.
        """
        self.readers.append((first, read))

    @property
    def weight(self) -> Tensor:
        value = self.base.weight
        assert isinstance(value, Tensor)
        return value

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.base(ids.clamp(min=0))
        lowest = int(ids.min())
        for first, read in self.readers:
            if lowest > first:
                continue  # no line has this name: a reader that varies may not even be able to answer
            rows = read().to(found)
            if rows.ndim == 2:
                rows = rows.expand(len(ids), -1, -1)
            place = first - ids
            here = (place >= 0) & (place < rows.shape[1])
            if not bool(here.any()):
                continue
            index = place.clamp(0, rows.shape[1] - 1).unsqueeze(-1).expand(-1, -1, rows.shape[-1])
            found = torch.where(here.unsqueeze(-1), rows.gather(1, index), found)
        return found
