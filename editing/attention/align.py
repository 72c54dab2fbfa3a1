"""Which tokens of one prompt are which of another."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor


def alignment(source: Sequence[int], target: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(mapper [source tokens, target tokens], aligned [target tokens] of 0 and 1).

    Attention over target tokens is taken from the source as `attention @ mapper` where aligned is 1. Equal
    tokens map to each other and swapped words onto the words in their place; words of another number of tokens
    share alike (Hertz et al. 2022, sections 3.1 and 3.2). Added words are not aligned.
    """
    mapper = torch.zeros(len(source), len(target))
    aligned = torch.zeros(len(target))
    matcher = difflib.SequenceMatcher(a=list(source), b=list(target), autojunk=False)
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        if kind not in ("equal", "replace"):
            continue
        aligned[b0:b1] = 1
        if a1 - a0 == b1 - b0:
            mapper[range(a0, a1), range(b0, b1)] = 1
        else:
            mapper[a0:a1, b0:b1] = 1 / (b1 - b0)
    return mapper, aligned


def swapped(source: Sequence[int], target: Sequence[int]) -> tuple[list[int], list[int]]:
    """(tokens of the source, tokens of the target) that differ."""
    matcher = difflib.SequenceMatcher(a=list(source), b=list(target), autojunk=False)
    different = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    return (
        [i for _, a0, a1, _, _ in different for i in range(a0, a1)],
        [j for _, _, _, b0, b1 in different for j in range(b0, b1)],
    )
