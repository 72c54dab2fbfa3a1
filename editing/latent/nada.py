"""StyleGAN-NADA's loss and choice of layers (Gal et al. 2021, "StyleGAN-NADA"). Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError

_SMALL = 0.05  # length of a difference of unit features, below which pictures are nearly the same


def directional_loss(new: Tensor, old: Tensor, text: Tensor) -> Tensor:
    """1 - cos(E(new picture) - E(old picture), text direction), [N] (section 4.1, equation 3).

    new, old: unit features [N, D] of the pictures of the trained and of the frozen generator from the same w.
    text: [D]. Before the first step both pictures are one and their difference has no direction; so the
    cosine is divided by at least _SMALL, which makes the loss linear there instead of unbounded in its slope.
    """
    step = new - old
    along = step @ functional.normalize(text, dim=0)
    return 1 - along / step.norm(dim=1).clamp(min=_SMALL)


def chosen_layers(before: Tensor, after: Tensor, count: int) -> list[int]:
    """The `count` style vectors that moved most, ascending (section 4.3: those that matter most to the change).

    before, after: [N, number, width] of an optimisation of w for the text. Raises UserError for a count that is
    not in 1..number.
    """
    moves = (after - before).abs().mean((0, 2))
    if not 1 <= count <= len(moves):
        raise UserError(f"{count} layers were asked for; the generator has 1 to {len(moves)}.")
    return sorted(torch.topk(moves, count).indices.tolist())
