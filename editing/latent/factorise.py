"""Directions without any labels, in closed form: SeFa and GANSpace. Pure functions, no network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError


def signed(vectors: Tensor) -> Tensor:
    """The vectors [K, D] with the sign that makes the largest entry of each positive: eigenvectors have none."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def sefa(weights: Iterable[Tensor], count: int, *, normalise: bool = True) -> tuple[Tensor, Tensor]:
    """The directions n that |A n| is largest for: eigenvectors of A^T A (Shen & Zhou 2021, equations 6 and 7).

    weights: A of each layer, [channels, D]: what a step in w does to the layer's style channels. They are
    stacked, which sums their A^T A. normalise: every channel's row of A has length 1, as in the authors'
    code, so that no layer counts for more by its scale alone. Returns unit directions [count, D] and their
    eigenvalues [count], largest first. Raises UserError if there are not as many directions.
    """
    stacked = torch.cat([weight.double() for weight in weights])
    if normalise:
        stacked = functional.normalize(stacked, dim=1)
    return _largest(stacked.T @ stacked, count)


def principal(batches: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of samples (Härkönen et al. 2020, "GANSpace", section 2.1).

    batches: of samples [N, D]. Returns unit components [count, D], the standard deviation of the samples along
    each [count], largest first, and their mean [D]. The covariance is summed over the batches in double
    precision, which gives what the paper's incremental PCA approximates.
    """
    total = 0
    first: Tensor | None = None
    sums = products = torch.zeros(())
    for batch in batches:
        points = batch.double()
        # Relative to one of the samples: sums of squares of far-off points would cancel.
        first = points[0].clone() if first is None else first
        points = points - first
        sums = sums + points.sum(0)
        products = products + points.T @ points
        total += len(points)
    if first is None or total < 2:
        raise UserError(f"Principal components need at least 2 samples; {total} were given.")
    mean = sums / total
    covariance = (products - total * torch.outer(mean, mean)) / (total - 1)
    components, variances = _largest(covariance, count)
    return components, variances.clamp(min=0).sqrt(), first + mean


def _largest(symmetric: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if not 1 <= count <= len(symmetric):
        raise UserError(f"{count} directions were asked for; this generator has 1 to {len(symmetric)}.")
    values, vectors = torch.linalg.eigh(symmetric)
    return signed(vectors.T.flip(0)[:count]), values.flip(0)[:count]
