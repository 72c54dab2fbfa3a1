"""Prompts: text and reference pictures to token ids, and batches of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbones.autoregressive.layout import PromptLayout, VisualVocabulary
from unified.contract.text import token_ids
from unified.errors import UserError


def named_ids(tokenizer: Any, text: str, rows: Mapping[str, Sequence[int]]) -> list[int]:
    """Ids of a text in which the names in `rows` stand for their (negative) ids.

    Raises UserError for a name that is a token already: the text could not say that token any more.
    """
    for name in rows:
        if len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 1:
            raise UserError(
                f"{name!r} is a token of the model's own vocabulary, so it cannot stand for a concept: give the concept"
                " another name with concept.renamed('<me>')."
            )
    return token_ids(tokenizer, text, rows)


class PromptBuilder:
    """Writes prompts in a layout.

    tokenizer: text to ids, with the layout's special tokens in its vocabulary (a transformers tokenizer).
    vocabulary: the ids of the visual tokens.
    """

    def __init__(self, tokenizer: Any, vocabulary: VisualVocabulary, layout: PromptLayout) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.layout = layout
        self.pad = self._special(layout.pad)

    def _special(self, token: str | None) -> int:
        index = None if token is None else self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == getattr(self.tokenizer, "unk_token_id", None):
            raise UserError(f"the tokenizer has no token {token!r} that the prompt layout names")
        return int(index)

    def _optional(self, token: str | None) -> list[int]:
        return [] if token is None else [self._special(token)]

    def text_ids(self, text: str) -> list[int]:
        """Ids of text alone, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def beginning(self) -> list[int]:
        """What every sequence starts with."""
        return [self._special(self.layout.begin)]

    def opening(self, height: int, width: int) -> list[int]:
        """What comes between the text and the first visual token of a picture of height x width tokens."""
        size = self.text_ids(f"{height}*{width}") if self.layout.size_text else []
        return [self._special(self.layout.image_start), *size, *self._optional(self.layout.image_token)]

    def closing(self) -> list[int]:
        """What follows the last row of a picture."""
        return [*self._optional(self.layout.end_of_frame), self._special(self.layout.image_end)]

    def slots(self, height: int, width: int) -> Tensor:
        """[n] the tokens of a picture in order: -1 where a visual token stands, else the fixed token's id."""
        row = [-1] * width + self._optional(self.layout.end_of_line)
        return torch.tensor(row * height)

    def picture_ids(self, codes: Tensor) -> list[int]:
        """A whole picture, codes [h,w], from opening to closing."""
        height, width = codes.shape
        slots = self.slots(height, width)
        slots[slots == -1] = self.vocabulary.to_ids(codes.flatten().cpu())
        return [*self.opening(height, width), *slots.tolist(), *self.closing()]

    def prompt_ids(
        self,
        text: str | Sequence[int],
        references: Sequence[Tensor] = (),
        *,
        size: tuple[int, int] | None = None,
        begin: bool = True,
    ) -> list[int]:
        """Everything before the first visual token: references, text, opening of the new picture.

        text: a string, or ids (where placeholders have been put). references: codes [h,w] of each.
        size: height and width in tokens of the new picture, default that of the layout.
        begin: False where the beginning of the sequence was read before (a memory that opens it).
        No text and no references is the prompt of unconditional sampling.
        """
        height, width = size or (self.layout.height, self.layout.width)
        ids = self.beginning() if begin else []
        for codes in references:
            ids += self.picture_ids(codes)
        ids += self.text_ids(text) if isinstance(text, str) else list(text)
        return ids + self.opening(height, width)

    def ending(self) -> list[int]:
        """What follows the last row of a generated picture: the closing and the end of the sequence."""
        return [*self.closing(), self._special(self.layout.end)]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the left to one length.

    ids: [B,L]. mask: bool [B,L], False on padding. embeddings: [B,L,D] to be used in place of the ids' rows
    (soft prompts), or None.
    """

    ids: Tensor
    mask: Tensor
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> Tensor:
        """[B,L] position of every token counted from its prompt's first; 0 on padding."""
        return (self.mask.long().cumsum(1) - 1).clamp_min(0)

    def to(self, device: torch.device) -> PromptBatch:
        moved = None if self.embeddings is None else self.embeddings.to(device)
        return PromptBatch(self.ids.to(device), self.mask.to(device), moved)


def left_pad(prompts: Sequence[Sequence[int]], pad: int) -> PromptBatch:
    """One batch of prompts of different lengths; padding goes to the left, so that all end together."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = True
    return PromptBatch(ids, mask)


def left_pad_embeddings(prompts: Sequence[Tensor], pad: int) -> PromptBatch:
    """The same for prompts given as embeddings [L_i,D]; differentiable."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [torch.cat([p.new_zeros(longest - len(p), p.shape[1]), p]) for p in prompts]
    mask = torch.tensor([[i >= longest - len(p) for i in range(longest)] for p in prompts])
    ids = torch.full((len(prompts), longest), pad)
    device = prompts[0].device
    return PromptBatch(ids.to(device), mask.to(device), torch.stack(rows))


def concatenate(first: PromptBatch, second: PromptBatch, pad: int) -> PromptBatch:
    """The rows of both, padded to one length; both with embeddings or both without."""
    if (first.embeddings is None) != (second.embeddings is None):
        raise UserError("one batch of prompts has embeddings and the other has ids; embed both")
    longest = max(first.ids.shape[1], second.ids.shape[1])

    def widen(tensor: Tensor, value: float) -> Tensor:
        missing = longest - tensor.shape[1]
        filler = tensor.new_full((len(tensor), missing, *tensor.shape[2:]), value)
        return torch.cat([filler, tensor], dim=1)

    embeddings = None
    if first.embeddings is not None and second.embeddings is not None:
        embeddings = torch.cat([widen(first.embeddings, 0.0), widen(second.embeddings, 0.0)])
    return PromptBatch(
        torch.cat([widen(first.ids, pad), widen(second.ids, pad)]),
        torch.cat([widen(first.mask, False), widen(second.mask, False)]),
        embeddings,
    )
