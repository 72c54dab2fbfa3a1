"""What encoders are trained by: terms of the papers' losses, and e4e's judge of style vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Pictures [N,3,H,W] in 0..1, drawn and true -> a distance for each, [N].
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; the defaults are those of pSp (Richardson et al. 2021, section 3.2).

    squared: of pixels in -1..1. perceptual: LPIPS. identity: 1 - cosine of who is shown. norm: |w - mean w|, the
    regulariser of pSp's other tasks. offset: e4e's |w_i - w_0|_2 summed over the unlocked styles (Tov et al. 2021,
    equation 3: 2e-4). judged: e4e's -log D(w) (equation 1: 0.1).
    """

    squared: float = 1.0
    perceptual: float = 0.8
    identity: float = 0.1
    norm: float = 0.0
    offset: float = 0.0
    judged: float = 0.0


def likeness(
    drawn: Tensor, true: Tensor, weights: LossWeights, perceptual: Distance, identity: Distance
) -> dict[str, Tensor]:
    """The weighted terms that compare pictures [N,3,H,W] in -1..1, averaged over the batch.

    Raises UserError if a distance cannot take pictures of this size.
    """
    terms = {"squared": weights.squared * (drawn - true).square().mean()}
    first, second = drawn / 2 + 0.5, true / 2 + 0.5
    for name, weight, distance in (
        ("perceptual", weights.perceptual, perceptual),
        ("identity", weights.identity, identity),
    ):
        if weight:
            terms[name] = weight * distance(first, second).mean()
    return terms


def regularity(ws: Tensor, mean: Tensor, unlocked: int, weights: LossWeights) -> dict[str, Tensor]:
    """The weighted terms on style vectors [N, num_ws, w_dim]: distance to the mean w, offsets from the first one."""
    terms = {}
    if weights.norm:
        terms["norm"] = weights.norm * (ws - mean).flatten(1).norm(dim=1).mean()
    if weights.offset:
        offsets = ws[:, 1 : unlocked + 1] - ws[:, :1]
        terms["offset"] = weights.offset * offsets.norm(dim=2).sum(1).mean()
    return terms


def unlocked_at(progress: float, num_ws: int) -> int:
    """How many offsets are added at this share of the training: none up to a tenth, then one after the other, each
    after a hundredth (Tov et al. 2021, section 4.1: of 200 000 steps from the 20 000th, every 2000)."""
    return max(0, min(num_ws - 1, int((progress - 0.1) / 0.01 + 1 + 1e-9) if progress >= 0.1 else 0))


class Pool(nn.Module):
    """Some of the style vectors seen before, mixed into what is judged (Shrivastava et al. 2017, section 2.3)."""

    kept: Tensor
    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def mixed(self, ws: Tensor, random: torch.Generator) -> Tensor:
        """ws [N, width]; half of them exchanged for kept ones, once there are as many as the pool holds."""
        out = ws.detach().clone()
        for row in range(len(out)):
            if self.count < len(self.kept):
                self.kept[self.count] = out[row]
                self.count += 1
            elif torch.rand((), generator=random) < 0.5:
                place = int(torch.randint(len(self.kept), (), generator=random))
                out[row], self.kept[place] = self.kept[place].clone(), out[row].clone()
        return out


class Pools(nn.Module):
    """One of style vectors of random latents, one of those that the encoder found."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.real, self.found = Pool(size, width), Pool(size, width)


def one_of_each(ws: Tensor, unlocked: int, random: torch.Generator) -> Tensor:
    """One style of each picture, drawn from the first and the unlocked ones: [N, num_ws, w_dim] -> [N, w_dim]."""
    chosen = torch.randint(unlocked + 1, (len(ws),), generator=random)
    return ws[torch.arange(len(ws)), chosen.to(ws.device)]


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of weighted terms."""
    return torch.stack(list(terms.values())).sum()
