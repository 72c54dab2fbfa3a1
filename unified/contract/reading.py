"""How a view reads prompts: rows that depend on layer or time, and changes of what a text encoder says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

# (output [N, tokens, width], ids [N, tokens]) -> output
TextChange = Callable[[Tensor, Tensor], Tensor]
Varies = Literal["layer", "time"]


@dataclass(frozen=True)
class Moment:
    """What each line that is being encoded is for: layer int64 [N], time [N] in 0..1 (1 is pure noise)."""

    layer: Tensor
    time: Tensor


@dataclass
class Reading:
    """State of a view. varies: what the rows of some name depend on. moment: set while a prompt is encoded.

    Row readers look at `moment` where they vary, and then give [N, count, width] instead of [count, width].
    """

    varies: set[Varies] = field(default_factory=set)
    moment: Moment | None = None
    _changes: dict[str, list[tuple[bool, TextChange]]] = field(default_factory=dict)
    _longer: dict[str, list[tuple[bool, TextChange]]] = field(default_factory=dict)

    def add(self, component: str, change: TextChange, *, values_only: bool = False, lengthens: bool = False) -> None:
        """Let `change` see and replace what the text encoder `component` says, in the order of adding.

        values_only: the change is for the values of cross-attention, the keys stay (Alaluf et al. 2023, 4.2).
        lengthens: it appends tokens, and so comes after all that count tokens from the end.
        """
        place = self._longer if lengthens else self._changes
        place.setdefault(component, []).append((values_only, change))

    @property
    def splits_values(self) -> bool:
        """Whether keys and values are made from different texts."""
        return any(only for changes in self._changes.values() for only, _ in changes)

    def spoken(self, component: str, output: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(text for keys, text for values): the encoder's output [N, tokens, width] after all changes."""
        keys = values = output
        for values_only, change in [*self._changes.get(component, []), *self._longer.get(component, [])]:
            same = values is keys
            if not values_only:
                keys = change(keys, ids)
            values = keys if same and not values_only else change(values, ids)
        return keys, values
