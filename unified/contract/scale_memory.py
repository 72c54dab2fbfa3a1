"""Keys and values beside a picture's own, for models that draw scale by scale."""

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
class ScaleMemory:
    """What the tokens of a picture see in every layer beside the tokens of that picture.

    keys, values: [layers, heads, M, width].
    bias: [layers, tokens, M] is added to the logits with which each token of the new picture (the scales one after
        the other) sees each entry; 0 sees it fully, -inf not at all. So layers, scales and places may differ.
    said: a name; only lines whose prompt says it see the memory. "": all lines.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    said: str = ""

    def __len__(self) -> int:
        return self.keys.shape[2]

    def weighted(self, weight: float) -> ScaleMemory:
        """Attended `weight` times as much: log(weight) is added to the logits; 0 hides it entirely.

        Raises UserError for a negative weight.
        """
        if weight < 0:
            raise UserError(f"Keys and values were bound with weight {weight}; attention needs a weight of 0 or more.")
        return self if weight == 1.0 else self.gated(torch.full(self.bias.shape[1:2], weight, dtype=self.bias.dtype))

    def gated(self, gate: Tensor) -> ScaleMemory:
        """Attended gate [tokens] times as much by each token of the new picture."""
        amount = gate.to(self.bias).log()
        return replace(self, bias=self.bias + amount[:, None])

    def in_layers(self, layers: Sequence[int]) -> ScaleMemory:
        """Seen in these layers only."""
        hidden = torch.ones(len(self.bias), dtype=torch.bool, device=self.bias.device)
        hidden[list(layers)] = False
        return replace(self, bias=self.bias.masked_fill(hidden[:, None, None], -torch.inf))

    def in_scales(self, scales: Sequence[int], sizes: Sequence[int]) -> ScaleMemory:
        """Seen while these scales are drawn only; sizes: number of tokens of every scale."""
        hidden = ~scale_mask(scales, sizes).to(self.bias.device)
        return replace(self, bias=self.bias.masked_fill(hidden[None, :, None], -torch.inf))


def scale_mask(scales: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Which tokens are of these scales, bool [tokens]. Raises UserError for a scale that there is not."""
    if not all(0 <= scale < len(sizes) for scale in scales):
        raise UserError(f"scales={list(scales)} were given; this model has the scales 0 to {len(sizes) - 1}.")
    return torch.cat([torch.full((size,), scale in scales) for scale, size in enumerate(sizes)])


@runtime_checkable
class RemembersScales(Protocol):
    """Draws scale by scale, and can be shown keys and values while it draws.

    The view's slots named "scale-memory/..." hold a :class:`ScaleMemory` each; the lines without the prompt, which
    guidance goes away from, see none.
    """

    def scale_memory_shape(self) -> tuple[int, int, int]:
        """(layers, heads, width of a head)."""
        ...

    def scale_queries(self) -> tuple[str, Sequence[str]]:
        """The component, and in each layer the path of what makes its queries, called once a scale."""
        ...

    def remember_scales(self, view: View, prompt: str, codes: Tensor) -> ScaleMemory:
        """What the layers make of a picture [1, 1, tokens] read whole with a prompt.

        A token sees what was read of its own and of coarser scales, as of its own picture.
        """
        ...


@runtime_checkable
class Rectifies(Protocol):
    """Reads prompts with an encoder of which directions can be taken out, where a name stands.

    The view's slots named "taken-out/NAME" hold orthonormal directions [rank, width]; what the encoder says of
    NAME's tokens has no part in them.
    """

    def meaning(self, view: View, texts: Sequence[str]) -> Tensor:
        """What the encoder says of whole texts, [N, width]."""
        ...
