"""Where the described attributes of pictures show, as weights of a training loss.

A mouth is some eighty of 4096 pixels: under a loss that counts all places alike, a model draws every described
hair colour long before it draws any described mouth.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MOST = 6000  # pictures that the map is measured on


def focus_map(images: np.ndarray, labels: np.ndarray, *, side: tuple[int, int], share: float) -> Tensor:
    """Weights float [h,w] with mean 1: `share` of them divided evenly among the attributes, the rest over all places.

    images: uint8 [N,H,W,3]; labels: int64 [N,A], the value of each attribute.

    The weight of an attribute lies where it explains the pixels: the part of their variance that is between
    the attribute's values.
    """
    pixels = torch.from_numpy(np.array(images[:MOST])).float()
    values = torch.as_tensor(np.array(labels[:MOST]))
    mean, variance = pixels.mean(0), pixels.var(0, correction=0).mean(-1).clamp_min(1e-6)
    maps = []
    for column in range(values.shape[1]):
        between = torch.zeros_like(variance)
        for value in values[:, column].unique():
            chosen = values[:, column] == value
            between += chosen.float().mean() * (pixels[chosen].mean(0) - mean).square().mean(-1)
        explained = between / variance
        # Chance explains a little everywhere: only what stands out counts.
        explained = (explained - explained.median()).clamp_min(0)
        if explained.sum() > 0:
            maps.append(explained / explained.mean())
    if not maps:
        return torch.ones(side)
    whole = (1 - share) + share * torch.stack(maps).mean(0)
    weights = functional.adaptive_avg_pool2d(whole[None, None], side)[0, 0]
    return weights / weights.mean()
