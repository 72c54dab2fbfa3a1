"""The class word: where words start from, and what the name is read as where the concept lives behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unified.contract.abilities import Reads, TextComponent
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.reference import Reference
from unified.contract.view import View
from unified.errors import UserError

_ROW = "row/"


def reads(backbone: Backbone) -> Reads:
    assert isinstance(backbone, Reads)
    return backbone


def class_text(reference: Reference, given: str = "") -> str:
    """The text to start from. Raises UserError if there is none."""
    text = given or reference.category
    if not text:
        raise UserError(
            "A word starts from the embedding of a class word, and none was given: pass category='person'"
            " (or what the pictures show)."
        )
    return text


def class_row(backbone: Backbone, text: TextComponent, words: str) -> Tensor:
    """The mean embedding [1, width] of the words' tokens."""
    ids = text.tokenizer(words, add_special_tokens=False)["input_ids"]
    embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
    rows: Tensor = embedding(torch.tensor(ids)).detach()
    return rows.mean(0, keepdim=True).to(rows.dtype)


def check_weight(view: View, name: str, what: str) -> None:
    """Raise UserError if the concept is bound with another weight than 1."""
    weight = view.binding.weight
    if weight != 1.0:
        raise UserError(f"{what} cannot be scaled ({name} has weight {weight}): bind it with weight 1.")


def class_rows(view: View, reference: Reference) -> dict[str, Tensor]:
    """Tensors `row/<component>` [1, width] that `read_as_class` needs; no gradient shall reach them."""
    words = class_text(reference)
    return {f"{_ROW}{t.component}": class_row(view.backbone, t, words) for t in reads(view.backbone).texts()}


def read_as_class(view: View, code: Code, name: str) -> None:
    """Let `name` be read as the class word (the mean of its tokens), by a row that says where the name is."""

    def reader(component: str) -> Any:
        return lambda: code.tensors[f"{_ROW}{component}"]

    view.name_rows(name, 1, {t.component: reader(t.component) for t in reads(view.backbone).texts()})


def held_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the class word's rows cut off from the gradient."""
    return {k: v.detach() if k.startswith(_ROW) else v for k, v in tensors.items()}


def said(view: View, name: str, ids: Tensor) -> Tensor:
    """Which ids are `name`'s, bool like `ids`."""
    return torch.isin(ids, torch.tensor(view.rows[name]))
