"""Something beside the text that cross-attention reads: tokens that follow the text's own, taken off again there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from unified.contract.attention import Attention, Editor, Place
from unified.contract.reading import TextChange
from unified.contract.view import View


@dataclass
class Part(ABC):
    """What one concept brings. count: its tokens, which its changes of the text append."""

    count: int

    @abstractmethod
    def add(self, call: Attention, own: Tensor) -> Tensor | None:
        """What is added to the attention's output [B, heads, queries, width]; own: its tokens [B, count, width]."""


@dataclass
class BesideText(Editor):
    """Takes the tokens of all parts off before keys and values are made, and lets each part add to the output."""

    parts: list[Part] = field(default_factory=list)
    _own: Tensor | None = None

    def wants(self, place: Place) -> bool:
        return place.kind == "cross"

    def inputs(self, place: Place, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        count = sum(part.count for part in self.parts)
        self._own = keys[:, -count:]
        return keys[:, :-count].contiguous(), values[:, :-count].contiguous()

    def output(self, call: Attention, mixed: Tensor) -> Tensor:
        assert self._own is not None
        for part, own in zip(self.parts, self._own.split([part.count for part in self.parts], 1), strict=True):
            added = part.add(call, own)
            mixed = mixed if added is None else mixed + added
        return mixed


def put_beside(view: View, part: Part, changes: Mapping[str, TextChange]) -> None:
    """Let `changes` (by text encoder) append the part's tokens, and the part add to every cross-attention."""
    view.own_texts()  # before the editor below, so that what it splits is each layer's own text
    editor = next((e for e in view.attending.editors if isinstance(e, BesideText)), None)
    if editor is None:
        editor = BesideText()
        view.edit_attention(editor)
    editor.parts.append(part)
    for component, change in changes.items():
        view.edit_text(component, change, lengthens=True)
