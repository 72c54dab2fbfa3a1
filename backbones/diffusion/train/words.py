"""Prompts with rows of their own for each line, as encoders that make words are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.diffusion.prompts import padded_ids
from unified.contract.text import RowEmbedding

NAME = "<me>"


class Speaker(nn.Module):
    """A frozen text encoder that reads `NAME` as rows [lines, count, width] given at each call."""

    def __init__(self, text_encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        base = text_encoder.get_input_embeddings()
        path = next(name for name, module in text_encoder.named_modules() if module is base)
        embedding = RowEmbedding(base)
        embedding.add(lambda: self._rows, -1)
        text_encoder.set_submodule(path, embedding)
        self._base = [base]  # in a list, so that it is not a second path to the same weights
        self._rows = torch.zeros(0)

    def class_row(self, words: str) -> Tensor:
        """The mean embedding [1, width] of the words."""
        ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        row: Tensor = self._base[0](torch.tensor(ids, device=self._base[0].weight.device)).detach()
        return row.mean(0, keepdim=True)

    def forward(self, texts: Sequence[str], rows: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs [lines, tokens, width], where the first of the rows stands, bool [lines, tokens])."""
        own = {NAME: list(range(-1, -1 - rows.shape[1], -1))}
        ids = padded_ids(self.tokenizer, texts, own, length=self.tokenizer.model_max_length).to(rows.device)
        self._rows = rows
        output: Tensor = self.text_encoder(input_ids=ids)[0]
        return output, ids == -1


def with_name(captions: Sequence[str], subject: str) -> list[str]:
    """The captions with the subject replaced by the name, or the name before those that have no such subject."""
    return [text.replace(subject, NAME) if subject in text else f"{NAME}, {text}" for text in captions]
