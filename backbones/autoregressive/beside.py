"""Keys and values that a layer sees beside its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Beside:
    """Keys and values [heads,M,...] that one layer sees beside its own; bias [B,m,M] added to the logits of seeing."""

    keys: Tensor
    values: Tensor
    bias: Tensor

    def after(self, own: Pair, mask: Tensor | None) -> tuple[Pair, Tensor]:
        """All keys and values, its own first, and the additive mask [B,1,m,all]; mask: bool [m,own] of its own."""
        rows, tokens = self.bias.shape[:2]
        base = self.bias.new_zeros(tokens, own[0].shape[2])
        if mask is not None:
            base = base.masked_fill(~mask, -torch.inf)
        both = [
            torch.cat([mine, other.to(mine).expand(rows, -1, -1, -1)], dim=2)
            for mine, other in zip(own, (self.keys, self.values), strict=True)
        ]
        bias = torch.cat([base.expand(rows, -1, -1), self.bias], dim=2)[:, None]
        return (both[0], both[1]), bias.to(own[0].dtype)
