"""LPIPS-Alex, the learned perceptual distance of Zhang et al. 2018, "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric" (equation 1), version 0.1, with its weights inside the package.

    d(a, b) = sum over layers l, mean over h, w, sum over channels c of  w[l,c] (fa[l,c,h,w] - fb[l,c,h,w])^2

where f are the activations after each ReLU of AlexNet, scaled to unit length along the channels. As the
weights w are non-negative, d is a squared Euclidean distance between vectors sqrt(w / (H W)) f, and those
vectors are what `features` returns: the vector of a fixed target is computed once and kept.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unified.errors import UserError

WEIGHTS = Path(__file__).parent.parent / "zoo" / "weights" / "lpips-alex" / "model.safetensors"
EXTRACTOR = "lpips-alex v0.1"
SMALLEST_SIDE = 31  # below this the second pooling has nothing left to pool

# Per-channel mean and standard deviation of ImageNet for images in -1..1, as rounded in LPIPS version 0.1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
CHANNELS = (64, 192, 384, 256, 256)


class LPIPS(nn.Module):
    """Perceptual distance between images; 0 for equal images, about 0.7 for unrelated ones.

    Frozen (no parameter asks for a gradient) and differentiable with respect to the images.
    Images are [N,3,H,W] in 0..1, at least 31 pixels a side; published numbers are usually taken at 256 or
    more, and values at different sizes should not be put in one column.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        super().__init__()
        if not weights.is_file():
            raise UserError(f"the LPIPS weights are missing: there is no file {weights}; reinstall unified")
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
                nn.Conv2d(64, 192, kernel_size=5, padding=2),
                nn.Conv2d(192, 384, kernel_size=3, padding=1),
                nn.Conv2d(384, 256, kernel_size=3, padding=1),
                nn.Conv2d(256, 256, kernel_size=3, padding=1),
            ]
        )
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        for layer, channels in enumerate(CHANNELS):
            self.register_buffer(f"head_{layer}", torch.zeros(channels))
        self.load_state_dict(load_file(weights))
        self.requires_grad_(False)
        self.eval()

    def activations(self, images: Tensor) -> list[Tensor]:
        """The five AlexNet activations after ReLU, each [N,C,h,w], of images [N,3,H,W] in 0..1."""
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE:
            raise UserError(
                f"LPIPS was given images of shape {tuple(images.shape)}; it expects [N,3,H,W] in 0..1 "
                f"with H and W at least {SMALLEST_SIDE}"
            )
        x = (2 * images - 1 - self.shift) / self.scale
        found = []
        for layer, convolution in enumerate(self.convolutions):
            if layer in (1, 2):
                x = nn.functional.max_pool2d(x, kernel_size=3, stride=2)
            x = nn.functional.relu(convolution(x))
            found.append(x)
        return found

    def features(self, images: Tensor) -> Tensor:
        """Vectors [N,D] whose squared Euclidean distance is LPIPS, of images [N,3,H,W] in 0..1."""
        return torch.cat([part.flatten(1) for part in self.parts(images)], dim=1)

    def parts(self, images: Tensor) -> list[Tensor]:
        """The same vectors as one map [N,C,h,w] for each layer: where in the images the distance lies."""
        parts = []
        for layer, x in enumerate(self.activations(images)):
            head = getattr(self, f"head_{layer}").view(1, -1, 1, 1)
            # The constant is inside the root, so that an all-zero activation has a finite gradient.
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            area = x.shape[2] * x.shape[3]
            parts.append(x / length * (head / area).sqrt())
        return parts

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        """LPIPS [N] of feature vectors [N,D]; one of the two may be [1,D] and is then compared with all."""
        return (a - b).square().sum(dim=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS [N] of images a and b, [N,3,H,W] in 0..1; one of the two may hold a single image for all."""
        if a.shape[2:] != b.shape[2:]:
            raise UserError(f"LPIPS compares images of one size; it was given {tuple(a.shape)} and {tuple(b.shape)}")
        return self.distance(self.features(a), self.features(b))


@functools.cache
def embedded_lpips() -> LPIPS:
    """The shared LPIPS network (frozen; read once)."""
    return LPIPS()
