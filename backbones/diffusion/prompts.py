"""Prompts to ids for the text encoders of diffusion models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.contract.text import token_ids
from unified.errors import UserError


def padded_ids(tokenizer: Any, prompts: Sequence[str], rows: Mapping[str, Sequence[int]], *, length: int) -> Tensor:
    """Ids int64 [len(prompts), length]: begin (if the tokenizer has one), text, end, padding.

    Raises UserError for a prompt that does not fit: a cut prompt would silently lose what it asks for.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    lines = []
    for prompt in prompts:
        ids = [*begin, *token_ids(tokenizer, prompt, rows), tokenizer.eos_token_id]
        if len(ids) > length:
            raise UserError(
                f"The prompt {prompt!r} takes {len(ids)} tokens; the text encoder takes {length}. Shorten it."
            )
        lines.append(ids + [tokenizer.pad_token_id] * (length - len(ids)))
    return torch.tensor(lines)
