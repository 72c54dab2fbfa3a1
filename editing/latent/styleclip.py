"""StyleCLIP's global directions (Patashnik et al. 2021, section 6). Pure functions, no network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError


def channel_effects(differences: Tensor) -> Tensor:
    """What each channel does to pictures, in the space of CLIP.

    differences: [C, N, D], the picture's features with the channel moved up less those with it moved down, for
    N pictures. Returns [C, D]: the mean of their unit vectors, again of length 1; 0 for a channel without effect.
    """
    return functional.normalize(functional.normalize(differences, dim=2).mean(1), dim=1)


def text_direction(target: Tensor, neutral: Tensor) -> Tensor:
    """The unit vector [D] from the neutral text's features to the target's. Raises UserError if they agree."""
    step = functional.normalize(target, dim=0) - functional.normalize(neutral, dim=0)
    if float(step.norm()) < 1e-6:
        raise UserError("The two texts mean the same to CLIP: write one that differs from the neutral text.")
    return functional.normalize(step, dim=0)


def global_direction(effects: Tensor, text: Tensor, *, beta: float) -> Tensor:
    """How much each channel moves for a text, [C], in units of its deviation; the largest is 1 in size.

    effects: [C, D], see `channel_effects`. text: unit [D]. A channel's relevance is the projection of its effect
    on the text's direction; those below `beta` in size stay (section 6.2). Raises UserError if all do.
    """
    relevance = effects @ text
    largest = float(relevance.abs().max())
    if largest == 0 or largest < beta:
        raise UserError(
            f"No style channel does what the text says: the largest relevance is {largest:.3f}, and beta is {beta:g}."
            " Lower beta, or write the text otherwise."
        )
    return torch.where(relevance.abs() >= beta, relevance, torch.zeros_like(relevance)) / largest
