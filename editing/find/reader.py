"""A network that reads w from a generator's pictures, trained on samples, whose w is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from editing.find.attribute_data import fit, seeded
from editing.latent.reconstructor import down_to
from editing.rendering import render_shifted
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random


class StyleReader(nn.Module):
    """Pictures [N,3,H,W] in 0..1 -> w [N, width], in deviations from the mean."""

    def __init__(self, width: int, side: int, *, channels: int = 32) -> None:
        super().__init__()
        self.trunk, found = down_to(3, side, channels=channels)
        self.w = nn.Linear(found, width)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.w(self.trunk(2 * images.to(self.w.weight.dtype) - 1))
        return found


def train_reader(
    backbone: Backbone, *, steps: int, batch: int = 16, lr: float = 1e-3, rng: Random, progress: Progress
) -> StyleReader:
    """A reader of w, by mean squared error on fresh samples at each step."""
    gan = gan_of(backbone)
    _, width = gan.style_shape()
    mean, whole = gan.style_statistics()
    deviation = whole / width**0.5
    reader = seeded(lambda: StyleReader(width, backbone.resolution), rng)

    def loss(rows: Tensor, step: int) -> Tensor:
        styles = sample_styles(backbone, range(step * batch, (step + 1) * batch), truncation=1.0, rng=rng)
        with torch.no_grad():
            images = render_shifted(backbone, styles)
        return (reader(images) - ((styles[:, 0] - mean) / deviation).float()).square().mean()

    fit(reader, loss, batch, steps, batch, lr, "reading w from pictures", rng=rng, progress=progress)
    return reader
