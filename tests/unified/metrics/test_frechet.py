"""Frechet and kernel distance: closed forms on Gaussians, and agreement with independent computations."""

import pytest
import torch
from torch import Tensor

from unified.errors import UserError
from unified.metrics.frechet import fit_gaussian, frechet_distance, gaussian_from_moments, kernel_distance


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(features: Tensor) -> Tensor:
    """Features moved and stretched to mean 0 and covariance 1 exactly."""
    centred = features - features.mean(dim=0)
    factor = torch.linalg.cholesky(centred.T @ centred / (len(features) - 1))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def test_one_dimension() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    x = spread(normal(50, 1))
    a, b = fit_gaussian(3 * x + 1), fit_gaussian(0.5 * x - 1)
    assert frechet_distance(a, b) == pytest.approx(2**2 + 2.5**2, rel=1e-12)


def test_commuting_covariances() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, also in a rotated frame."""
    x, y = spread(normal(100, 5)), spread(normal(80, 5, seed=1))
    s, t = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([5.0, 1, 1, 2, 0.1]).double()
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    shift = normal(5, seed=3)
    expected = float(shift.square().sum() + (s - t).square().sum())
    assert frechet_distance(fit_gaussian(x * s), fit_gaussian(y * t + shift)) == pytest.approx(expected)
    turned = frechet_distance(fit_gaussian((x * s) @ turn), fit_gaussian((y * t + shift) @ turn))
    assert turned == pytest.approx(expected)


def test_agrees_with_the_matrix_square_root() -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    a, b = normal(200, 12), normal(150, 12, seed=1) @ normal(12, 12, seed=2) + 0.3
    first, second = fit_gaussian(a), fit_gaussian(b)
    covariance_a, covariance_b = a.T.cov(), b.T.cov()
    torch.testing.assert_close(first.covariance, covariance_a)
    root = torch.from_numpy(scipy_linalg.sqrtm((covariance_a @ covariance_b).numpy()).real)
    trace = (covariance_a + covariance_b - 2 * root).trace()
    expected = float((a.mean(0) - b.mean(0)).square().sum() + trace)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    restored = gaussian_from_moments(b.mean(0), covariance_b)
    assert frechet_distance(first, restored) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_dimensions() -> None:
    """Zero for a set and itself, and the same as with padded dimensions, though covariances are singular."""
    a, b = normal(10, 64), normal(7, 64, seed=1)
    first, second = fit_gaussian(a), fit_gaussian(b)
    assert first.factor.shape == (10, 64)
    assert frechet_distance(first, first) < 1e-10
    padded = [fit_gaussian(torch.cat([x, torch.zeros(len(x), 9)], dim=1)) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second))


def test_falls_with_the_number_of_images() -> None:
    distances = [
        frechet_distance(fit_gaussian(normal(n, 16)), fit_gaussian(normal(n, 16, seed=1))) for n in (20, 200, 2000)
    ]
    assert distances[0] > distances[1] > distances[2] > 0


def test_kernel_distance_by_its_definition() -> None:
    a, b = normal(6, 3), normal(5, 3, seed=1) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = sum(kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j) / 30
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 30
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = normal(40, 8), normal(40, 8, seed=1) * 1.5
    assert kernel_distance(a, b) == pytest.approx(float(kid.poly_mmd(a, b)))


def test_kernel_distance_is_unbiased() -> None:
    """Over many draws of one distribution the mean is 0 within its error; for another one it is not."""
    same = torch.tensor([kernel_distance(normal(20, 4, seed=s), normal(20, 4, seed=s + 999)) for s in range(200)])
    assert same.mean().abs() < 4 * same.std() / 200**0.5
    assert same.min() < 0 < same.max()
    other = [kernel_distance(normal(20, 4, seed=s), normal(20, 4, seed=s + 999) + 1) for s in range(20)]
    assert min(other) > same.mean() + 3 * float(same.std()) / 20**0.5


def test_subsets() -> None:
    a, b = normal(60, 4), normal(50, 4, seed=1) + 0.5
    whole = kernel_distance(a, b)
    parts = kernel_distance(a, b, subset_size=25, subsets=400)
    assert parts == pytest.approx(whole, rel=0.2)
    assert parts == kernel_distance(a, b, subset_size=25, subsets=400)
    assert kernel_distance(a[:50], b, subset_size=50, subsets=3) == pytest.approx(kernel_distance(a[:50], b))


def test_refusals() -> None:
    good = fit_gaussian(normal(5, 3))
    for bad in (normal(1, 3), normal(3), torch.full((4, 3), float("nan"))):
        with pytest.raises(UserError):
            fit_gaussian(bad)
    with pytest.raises(UserError, match="dimensions"):
        frechet_distance(good, fit_gaussian(normal(5, 4)))
    with pytest.raises(UserError, match="negative eigenvalues"):
        gaussian_from_moments(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(UserError, match="one extractor"):
        kernel_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(UserError, match="subset_size"):
        kernel_distance(normal(5, 3), normal(9, 3), subset_size=6)
