"""Bootstrap intervals: against normal theory, coverage, and pairing."""

import pytest
import torch

from unified.errors import UserError
from unified.metrics.bootstrap import difference_interval, mean_interval


def sample(count: int, seed: int) -> list[float]:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()


def test_width_is_that_of_normal_theory() -> None:
    """For many subjects: mean +- 1.96 s / sqrt(n)."""
    values = sample(400, 0)
    found = mean_interval(values)
    error = torch.tensor(values).std(correction=0).item() / 20
    assert found.mean == pytest.approx(sum(values) / 400)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)
    assert mean_interval(values, confidence=0.5).high < found.high


def test_exact_distribution_of_two_subjects() -> None:
    """Means of two drawn from {0, 1} are 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    found = mean_interval([0.0, 1.0], confidence=0.4)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    found = mean_interval([0.0, 1.0], confidence=0.6)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_coverage() -> None:
    """The true mean lies inside about 95 times of 100 (30 subjects: a little fewer)."""
    inside = 0
    for seed in range(300):
        found = mean_interval(sample(30, seed), resamples=1000)
        inside += found.low <= 0 <= found.high
    assert 0.90 < inside / 300 < 0.98


def test_equal_values_and_seeds() -> None:
    found = mean_interval([0.25] * 5)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert str(found) == "0.250 [0.250, 0.250]"
    values = sample(10, 3)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_pairing_removes_what_subjects_share() -> None:
    """A constant gain is certain, however much the subjects differ among themselves."""
    base = [10 * value for value in sample(30, 0)]
    found = difference_interval([value + 0.1 for value in base], base)
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_refusals() -> None:
    with pytest.raises(UserError, match="at least 2"):
        mean_interval([1.0])
    with pytest.raises(UserError, match="finite"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(UserError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=95)
    with pytest.raises(UserError, match="same subjects"):
        difference_interval([1.0, 2.0], [1.0])
