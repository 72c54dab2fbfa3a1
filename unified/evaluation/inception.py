"""The network of published FID and KID values: Inception v3 as it was converted from TensorFlow.

It differs from torchvision's Inception v3 in its poolings: averages leave out the padding, and the last block takes
a maximum in place of an average. Weights: pt_inception-2015-12-05-6726825d.pth (pytorch-fid, torch-fidelity).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified.errors import UserError
from unified.evaluation.networks import read_state
from unified.images import to_numpy

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
NAME = "inception-2015-12-05 pool3, bilinear 299"
SIDE, WIDTH, CLASSES = 299, 2048, 1008


class InceptionPool:
    """Pictures to the 2048 numbers before the classifier (pool3), frozen."""

    name = NAME

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in 0..1 -> [N,2048]. Taken in 8 bits, scaled bilinearly to 299 x 299 without antialiasing."""
        pixels = torch.from_numpy(to_numpy(images)).movedim(-1, 1).float() / 255
        scaled = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        out: Tensor = self.network(2 * scaled - 1)
        return out


def build() -> nn.Module:
    """The network with random weights: [N,3,299,299] in -1..1 -> [N,2048]."""
    from torchvision.models import inception_v3

    network: Any = inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.transform_input = False
    network.dropout = nn.Identity()
    network.fc = nn.Identity()
    for name, block in network.named_children():
        if hasattr(block, "branch_pool"):  # all blocks but those that halve the size
            block.register_forward_hook(_pool_again(maximum if name == "Mixed_7c" else average))
    result: nn.Module = network
    return result


def average(x: Tensor) -> Tensor:
    """Mean over 3 x 3 of what is inside the picture."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Maximum over 3 x 3."""
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def _pool_again(pool: Callable[[Tensor], Tensor]) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that puts a block's branch of another pooling in the place of its own, the last of its channels."""

    def hook(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        branch = block.branch_pool(pool(inputs[0]))
        return torch.cat([output[:, : -branch.shape[1]], branch], 1)

    return hook


def load(source: str | Path | None = None) -> InceptionPool:
    """The network with the published weights, of a file or downloaded. Raises UserError if they cannot be had."""
    state = read_state(source, url=URL, what="Inception v3 of FID")
    network = build()
    try:
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    except RuntimeError as error:
        raise UserError(f"{source or URL} does not hold the Inception v3 of FID ({FILE}): {error}") from error
    return InceptionPool(network)
