"""Keys and values that stand before a prompt: learnt prefixes, reference pictures read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from unified.errors import UserError

if TYPE_CHECKING:
    from unified.contract.view import View


@dataclass(frozen=True)
class Memory:
    """What every layer of a model remembers of tokens that were read, or learnt, before the prompt.

    keys, values: [layers, heads, M, width]; keys are rotated to the positions 0..M-1, so that the prompt goes
        on at position M.
    bias: [layers, M] is added to the attention logits; 0 sees an entry fully, -inf not at all. A layer may see
        other entries than the next one.
    opens: the remembered tokens include the beginning of the sequence, so that the prompt has none of its own.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    opens: bool = False

    def __len__(self) -> int:
        return self.keys.shape[2]

    def weighted(self, weight: float) -> Memory:
        """Attend to it `weight` times as much: log(weight) is added to the logits; 0 hides it entirely.

        Raises UserError for a negative weight.
        """
        if weight < 0:
            raise UserError(f"Keys and values were bound with weight {weight}; attention needs a weight of 0 or more.")
        if weight == 1.0:
            return self
        amount = torch.tensor(weight, dtype=self.bias.dtype).log()
        return replace(self, bias=self.bias + amount)

    def in_layers(self, layers: Sequence[int]) -> Memory:
        """Seen in these layers only."""
        hidden = torch.ones(len(self.bias), dtype=torch.bool)
        hidden[list(layers)] = False
        return replace(self, bias=self.bias.masked_fill(hidden.to(self.bias.device)[:, None], -torch.inf))


def join_memories(memories: Sequence[Memory]) -> Memory | None:
    """Several memories side by side, each at the positions it was made for; None without any."""
    if not memories:
        return None
    if len(memories) == 1:
        return memories[0]
    return Memory(
        torch.cat([m.keys for m in memories], dim=2),
        torch.cat([m.values for m in memories], dim=2),
        torch.cat([m.bias for m in memories], dim=1),
        any(m.opens for m in memories),
    )


@runtime_checkable
class Remembers(Protocol):
    """Reads a sequence token by token and keeps keys and values of what it has read.

    The view's slots named "memory/..." hold a :class:`Memory` each; they stand before every prompt but not
    before the one that guidance goes away from.
    """

    def memory_shape(self) -> tuple[int, int, int]:
        """(layers, heads of keys and values, width of a head)."""
        ...

    def remember(self, view: View, text: str, pictures: Tensor | None = None) -> Memory:
        """The memory of reading `text`, or of the sequence's beginning, `pictures` (codes [N,h,w]) and `text`."""
        ...

    def embeddings_of(self, view: View, text: str, pictures: Tensor | None = None) -> Tensor:
        """The input embeddings [n,D] of a text, or of the visual tokens `pictures` int64 [N,h,w] and the text."""
        ...

    def memory_of_inputs(self, view: View, inputs: Tensor) -> Memory:
        """The memory of tokens whose input to the first layers is given, [layers,n,D]; later ones see nothing.

        Differentiable; the tokens stand at positions 0..n-1.
        """
        ...
