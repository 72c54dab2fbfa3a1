"""Distances between two sets of images by their features [N,D]: Frechet and kernel distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unified.errors import UserError


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution with covariance factor.T @ factor: mean [D], factor [R,D], float64."""

    mean: Tensor
    factor: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.factor.T @ self.factor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and (unbiased) covariance of features [N,D]; N at least 2.

    The factor is kept in place of the covariance, as the square root in the Frechet distance loses half of
    the digits of small eigenvalues otherwise; it has at most min(N, D) rows, whatever the number of images.
    """
    if features.ndim != 2 or features.shape[0] < 2:
        raise UserError(f"features of shape {tuple(features.shape)} were given; expected [N,D] with at least 2 images")
    if not torch.isfinite(features).all():
        raise UserError("the features hold values that are not finite numbers")
    x = features.detach().double()
    mean = x.mean(dim=0)
    factor = (x - mean) / (x.shape[0] - 1) ** 0.5
    if factor.shape[0] > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return Gaussian(mean, factor)


def gaussian_from_moments(mean: Tensor, covariance: Tensor) -> Gaussian:
    """A Gaussian from published statistics: mean [D], symmetric positive semidefinite covariance [D,D]."""
    values, vectors = torch.linalg.eigh(covariance.double())
    if values.min() < -1e-6 * values.max():
        raise UserError("the covariance has negative eigenvalues; expected a covariance matrix")
    return Gaussian(mean.double(), values.clamp_min(0).sqrt()[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))  (Heusel et al. 2017, equation 6).

    With C = F.T F, the trace of the root is the sum of the singular values of F_a F_b.T. The value falls with
    the number of images: compare only values from equally many, and state the value of real against real.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"feature sets of {a.mean.shape[0]} and {b.mean.shape[0]} dimensions were to be compared; "
            "use one extractor for both"
        )
    means = (a.mean - b.mean).square().sum()
    cross = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    distance = means + a.factor.square().sum() + b.factor.square().sum() - 2 * cross
    return max(float(distance), 0.0)


def kernel_distance(
    a: Tensor, b: Tensor, *, subset_size: int | None = None, subsets: int = 100, seed: int = 0
) -> float:
    """KID: squared maximum mean discrepancy between features [N,D] and [M,D], unbiased, so it may be below 0.

    Kernel (x . y / D + 1)^3 (Binkowski et al. 2018, section 3). subset_size: None takes all pairs at once;
    otherwise the mean over `subsets` random subsets of that many images from each side, as published values
    do (1000 images, 100 subsets).
    """
    for features in (a, b):
        if features.ndim != 2 or features.shape[0] < 2 or features.shape[1] != a.shape[1]:
            raise UserError(
                f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} were given; expected [N,D] and "
                "[M,D] from one extractor, with at least 2 images each"
            )
    a, b = a.detach().double(), b.detach().double()
    if subset_size is None:
        return float(_discrepancy(a, b))
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise UserError(f"subset_size={subset_size} was asked for; expected 2 to {min(len(a), len(b))}")
    rng = torch.Generator().manual_seed(seed)
    found = [
        _discrepancy(
            a[torch.randperm(len(a), generator=rng)[:subset_size]],
            b[torch.randperm(len(b), generator=rng)[:subset_size]],
        )
        for _ in range(subsets)
    ]
    return float(torch.stack(found).mean())


def _discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j) - 2 mean over i, j of k(a_i, b_j)."""
    within = torch.zeros((), dtype=a.dtype)
    for x in (a, b):
        kernel = _kernel(x, x)
        within = within + (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))
    return within - 2 * _kernel(a, b).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
