"""Prompts to what the network reads, also where that depends on the layer and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backbones.diffusion.prompts import padded_ids
from unified.contract.abilities import TextComponent
from unified.contract.reading import Moment
from unified.contract.text import token_ids
from unified.contract.view import View

IDS = "ids:"  # marks entries of a condition that are still to be encoded, at the time of the call


def prompt_ids(texts: Sequence[TextComponent], view: View, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Ids int64 [N, tokens] for every text encoder, by component."""
    return {t.component: padded_ids(t.tokenizer, prompts, view.rows, length=t.length) for t in texts}


def pending(ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A condition that holds ids only: for views whose prompts read differently at each time."""
    return {f"{IDS}{component}": value for component, value in ids.items()}


def pending_ids(condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ids of a condition made by `pending`; empty for any other."""
    return {key.removeprefix(IDS): value for key, value in condition.items() if key.startswith(IDS)}


def lines(view: View, ids: Tensor, time: Tensor | None, layers: int) -> Tensor:
    """The ids [N * layers, tokens] to encode, and in `view.reading.moment` what each is for."""
    count = len(ids)
    if layers > 1:
        ids = ids.repeat_interleave(layers, 0)
    times = torch.zeros(count) if time is None else time.expand(count).float()
    view.reading.moment = Moment(torch.arange(layers).repeat(count), times.repeat_interleave(layers))
    return ids


def places_of(text: TextComponent, view: View, prompts: Sequence[str], words: str) -> Tensor:
    """Where `words` stand in each prompt's ids, bool [N, tokens]; all occurrences."""
    ids = padded_ids(text.tokenizer, prompts, view.rows, length=text.length)
    wanted = torch.tensor(token_ids(text.tokenizer, words, view.rows))
    found = torch.zeros_like(ids, dtype=torch.bool)
    if len(wanted) == 0:
        return found
    starts = (ids.unfold(1, len(wanted), 1) == wanted).all(-1)
    for offset in range(len(wanted)):
        found[:, offset : offset + starts.shape[1]] |= starts
    return found


def output_of(encoder: Any, ids: Tensor) -> Tensor:
    """The last hidden states [N, tokens, width] of a transformers text encoder."""
    output: Tensor = encoder(ids)[0]
    return output
