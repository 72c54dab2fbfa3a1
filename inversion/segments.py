"""Parts of a picture that belong together, without a network."""

from __future__ import annotations

import torch
from torch import Tensor


def superpixels(images: Tensor, *, count: int = 16, compactness: float = 0.5, rounds: int = 10) -> Tensor:
    """Segments of alike colour and near place: images [N,3,H,W] in 0..1 -> numbers from 0, int64 [N,H,W].

    Lloyd's k-means on (colour, compactness * place), begun on a regular grid of about `count` centres (Achanta et
    al. 2012, SLIC, with a search over all centres instead of the near ones). compactness: how much a picture's
    width of distance weighs against the range of one colour.
    """
    side = max(1, round(count**0.5))
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    found = []
    for image in images.detach().float().cpu():
        points = torch.cat([image, compactness * torch.stack([y, x])]).flatten(1).T  # [pixels, 5]
        rows = ((torch.arange(side) + 0.5) / side * height).long()
        columns = ((torch.arange(side) + 0.5) / side * width).long()
        centres = points[(rows[:, None] * width + columns).flatten()]
        for _ in range(rounds):
            label = torch.cdist(points, centres).argmin(1)
            members = torch.nn.functional.one_hot(label, len(centres)).float()
            size = members.sum(0)
            centres = torch.where(size[:, None] > 0, members.T @ points / size[:, None].clamp(min=1), centres)
        found.append(torch.cdist(points, centres).argmin(1).reshape(height, width))
    return torch.stack(found)
