"""Which style channels belong to an attribute (Wu et al. 2021, "StyleSpace Analysis"). Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.errors import UserError

_STILL = 1e-8  # deviation under which a channel does not vary


def normalised_relevance(exemplars: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """How consistently exemplars differ from all samples in each channel (section 5).

    delta = (s_exemplar - mean) / deviation; relevance = |mean(delta)| / std(delta) over the exemplars. exemplars:
    channels [K, C] of pictures that show the attribute; mean, deviation: [C] of the generator's samples. Returns
    the relevance [C], 0 for channels that do not vary, and the sign [C] of their difference. Raises UserError
    for fewer than 2 exemplars.
    """
    if len(exemplars) < 2:
        raise UserError(f"{len(exemplars)} exemplars were given; the spread over them needs at least 2.")
    delta = (exemplars - mean) / deviation.clamp(min=_STILL)
    centre, spread = delta.mean(0), delta.std(0)
    relevance = centre.abs() / spread.clamp(min=_STILL)
    return torch.where(deviation > _STILL, relevance, torch.zeros_like(relevance)), centre.sign()


def one_channel(index: int, count: int, *, sign: float, like: Tensor) -> Tensor:
    """The unit vector [count] along one channel."""
    vector = like.new_zeros(count)
    vector[index] = sign
    return vector
