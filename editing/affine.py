"""What style vectors do to style channels: the affine layers between them, read off by unit steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from editing.styles import gan_of, joined, styled_of
from unified.contract.backbone import Backbone


@torch.no_grad()
def style_matrices(backbone: Backbone) -> list[dict[str, Tensor]]:
    """For each style vector: layer -> A [channels, width], what a step of this vector adds to its channels.

    The style channels are affine in the style vectors, so unit steps read A, whatever the networks look like.
    """
    gan = styled_of(backbone)
    number, width = gan_of(backbone).style_shape()
    found: list[dict[str, Tensor]] = []
    with backbone.bound() as view:
        still = gan.channels_of(view, torch.zeros(1, number, width, dtype=backbone.dtype))
        for place in range(number):
            steps = torch.zeros(width, number, width, dtype=backbone.dtype)
            steps[:, place] = torch.eye(width, dtype=backbone.dtype)
            moved = gan.channels_of(view, steps)
            matrices = {layer: (values - still[layer]).T for layer, values in moved.items()}
            found.append({layer: matrix for layer, matrix in matrices.items() if bool(matrix.any())})
    return found


@torch.no_grad()
def nearest_styles(backbone: Backbone, channels: Mapping[str, Tensor]) -> Tensor:
    """The style vectors [N, number, width] whose channels are nearest to these {layer: [N, channels]}.

    By least squares for each style vector: exact where the channels came from style vectors and the layers are at
    least as wide as they are. What the channels of narrower layers leave open is as in the mean w.
    """
    gan = styled_of(backbone)
    number, width = gan_of(backbone).style_shape()
    with backbone.bound() as view:
        mean, _ = gan_of(backbone).style_statistics()
        still = gan.channels_of(view, mean.expand(1, number, width))
    found = []
    for matrices in style_matrices(backbone):
        matrix = torch.cat(list(matrices.values())).double()
        wanted = joined({layer: (channels[layer] - still[layer]).double() for layer in matrices}, matrices)
        found.append(mean + (torch.linalg.pinv(matrix) @ wanted.T).T)
    return torch.stack(found, dim=1).to(backbone.dtype)
