"""What a step in the space of features means in style vectors, by least squares. Pure functions, no network."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.errors import UserError


def steps_matrix(features: Tensor, styles: Tensor, *, ridge: float) -> Tensor:
    """B [D, K] so that a step d in features goes with the step d @ B in styles.

    features: [N, D], styles: [N, K], of the same N pictures. The least-squares solution of d_features @ B =
    d_styles over all pairs of the pictures, (Cov(f, f) + ridge * largest variance * I)^-1 Cov(f, s): differences
    of pairs have twice the covariances, so that pairs need not be drawn. ridge: share of the largest principal variance
    of the features; directions in which pictures vary by less are no longer followed.
    Raises UserError for fewer than 2 pictures.
    """
    if len(features) < 2 or len(features) != len(styles):
        raise UserError(f"{len(features)} features of {len(styles)} styles were given; at least 2 of each are needed.")
    f = (features - features.mean(0)).double()
    s = (styles - styles.mean(0)).double()
    covariance = f.T @ f / len(f)
    largest = torch.linalg.eigvalsh(covariance)[-1]
    damped = covariance + ridge * largest * torch.eye(len(covariance), dtype=torch.float64)
    return torch.linalg.solve(damped, f.T @ s / len(f)).to(styles.dtype)
