"""Training on coarse scales that are wrong, as sampled ones are.

Han et al. 2024 (Infinity), section 3.3: a model that only ever read true coarse tokens copies what it reads, and cannot
mend what it drew wrongly itself. Here some tokens of the coarser scales are replaced before they are read (there bits
are flipped), and the target of each scale is what is then left of the picture: the text still says what was lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.autoregressive.scales import MultiScaleTokenizer


@torch.no_grad()
def wrong_and_right(
    tokenizer: MultiScaleTokenizer, codes: Tensor, *, share: float, near: int = 32, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(tokens [B,count] to read, tokens [B,count] to predict) of pictures with tokens `codes` [B,count].

    Every token but those of the last scale is replaced with probability `share` times a number of its picture's own,
    even in 0..1, by one of the `near` codes nearest to its residual. At share 0 both are a rounding of what `codes`
    decode to.
    """
    left = tokenizer.sums(codes)[-1]
    rate = share * torch.rand(len(codes), 1, 1, generator=generator)
    sides = tokenizer.settings.sides
    read, right = [], []
    for scale, side in enumerate(sides):
        nearest = tokenizer.nearest(tokenizer.shrink(left, scale), count=near)
        draws = torch.rand(2, len(codes), side, side, generator=generator)
        other = (draws[0] * nearest.shape[1]).long().unsqueeze(1).to(nearest.device)
        wrong = (draws[1] < rate).to(nearest.device) & (scale + 1 < len(sides))
        used = torch.where(wrong, nearest.gather(1, other)[:, 0], nearest[:, 0])
        left = left - tokenizer.contribution(scale, tokenizer.lookup(used))
        read.append(used.flatten(1))
        right.append(nearest[:, 0].flatten(1))
    return torch.cat(read, 1), torch.cat(right, 1)
