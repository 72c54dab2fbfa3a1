"""What a view remembers, as the blocks of a next-scale model see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.autoregressive.beside import Beside
from unified.contract.scale_memory import ScaleMemory


@dataclass(frozen=True)
class Memories:
    """keys, values: [layers,heads,M,width]. bias: [layers,B,tokens,M], a line of it for each line of a batch."""

    keys: Tensor
    values: Tensor
    bias: Tensor

    def beside(self, places: slice, *, rows: int) -> list[Beside]:
        """What the tokens at `places` see in every layer; rows: lines of the batch, the last ones see nothing."""
        bias = self.bias[:, :, places]
        if rows > bias.shape[1]:
            blind = bias.new_full((len(bias), rows - bias.shape[1], *bias.shape[2:]), -torch.inf)
            bias = torch.cat([bias, blind], dim=1)
        return [Beside(*layer) for layer in zip(self.keys, self.values, bias, strict=True)]


def memories_for(
    memories: Sequence[ScaleMemory], ids: Tensor, rows: Mapping[str, Sequence[int]], *, gate: Tensor | None = None
) -> Memories | None:
    """The memories side by side for lines of text, ids [B,T]; rows: the ids of names. None if there are none.

    gate: [tokens], how much each token of the new picture sees of them.
    """
    if not memories:
        return None
    found = []
    for memory in memories:
        opened = memory if gate is None else memory.gated(gate)
        bias = opened.bias.unsqueeze(1).expand(-1, len(ids), -1, -1)
        if memory.said:
            told = torch.isin(ids, torch.tensor(list(rows[memory.said]), device=ids.device)).any(1)
            bias = bias.masked_fill(~told.to(bias.device)[None, :, None, None], -torch.inf)
        found.append(bias)
    return Memories(
        torch.cat([m.keys for m in memories], dim=2),
        torch.cat([m.values for m in memories], dim=2),
        torch.cat(found, dim=3),
    )
