"""Where the described attributes of pictures show, as weights of a training loss.

A mouth is some eighty of 4096 pixels: under a loss that counts all places alike, a model draws every described
hair colour long before it draws any described mouth.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backbones.diffusion.train.common import Pictures

MOST = 6000  # pictures that the map is measured on


def focus_map(pictures: Pictures, *, side: tuple[int, int], share: float) -> Tensor:
    """Weights float [h,w] with mean 1: `share` of them divided evenly among the attributes, the rest over all places.

    The weight of an attribute lies where it explains the pixels: the part of their variance that is between
    the attribute's values.
    """
    images = torch.from_numpy(np.array(pictures.images[:MOST])).float()
    labels = torch.as_tensor(np.array(pictures.labels[:MOST]))
    mean, variance = images.mean(0), images.var(0, correction=0).mean(-1).clamp_min(1e-6)
    maps = []
    for column in range(labels.shape[1]):
        between = torch.zeros_like(variance)
        for value in labels[:, column].unique():
            chosen = labels[:, column] == value
            between += chosen.float().mean() * (images[chosen].mean(0) - mean).square().mean(-1)
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
