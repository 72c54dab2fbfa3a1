"""CMA-ES on functions with known minima, with the tutorial's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inversion.methods.cma import CMAES, Defaults
from unified.contract.random import Random


def minimum(function: Callable[[Tensor], Tensor], start: Tensor, sigma: float, generations: int) -> float:
    """The function's value at the mean that CMA-ES reaches."""
    search, rng = CMAES(start, sigma), Random(0)
    for number in range(generations):
        normal = rng.child(number).normal(range(search.population), start.shape, dtype=torch.float64)
        samples = search.ask(normal)
        search.tell(samples, function(samples))
    return float(function(search.mean[None]))


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(1)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


def turned_ellipsoid(x: Tensor) -> Tensor:
    """Axes of lengths 1 to 1000, in no special direction."""
    size = x.shape[1]
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(5)).double())[0]
    return ((x @ turn).square() * 10.0 ** torch.linspace(0, 6, size).double()).sum(1)


def test_default_parameters_are_the_tutorials() -> None:
    """Table 1 by hand for 10 dimensions."""
    found = Defaults.of(10)
    assert (found.population, found.parents) == (10, 5)
    raw = [math.log(5.5) - math.log(i) for i in range(1, 11)]
    selected = sum(raw[:5]) ** 2 / sum(w * w for w in raw[:5])
    assert found.selected == pytest.approx(selected) and found.selected == pytest.approx(3.167, abs=1e-3)
    assert found.step_path == pytest.approx((selected + 2) / (selected + 15))
    assert found.path == pytest.approx((4 + selected / 10) / (14 + selected / 5))
    assert found.rank_one == pytest.approx(2 / (11.3**2 + selected))
    assert found.weights[:5].sum().item() == pytest.approx(1.0)
    assert found.weights[5:].max() < 0
    # With these the covariance stays positive definite (equation 52).
    assert found.weights[5:].abs().sum() <= (1 - found.rank_one - found.rank_many) / (10 * found.rank_many) + 1e-9


def test_it_finds_the_minima_of_known_functions() -> None:
    assert minimum(sphere, torch.full((10,), 3.0), 1.0, 220) < 1e-10
    assert minimum(turned_ellipsoid, torch.full((8,), 1.0), 1.0, 450) < 1e-8
    assert minimum(rosenbrock, torch.zeros(6), 0.5, 600) < 1e-8


def test_only_the_ranking_of_losses_counts() -> None:
    one, other = CMAES(torch.ones(4), 0.3), CMAES(torch.ones(4), 0.3)
    for number in range(20):
        normal = Random(0).child(number).normal(range(one.population), (4,), dtype=torch.float64)
        first, second = one.ask(normal), other.ask(normal)
        one.tell(first, sphere(first))
        other.tell(second, sphere(second).exp())
    assert torch.equal(one.mean, other.mean) and one.sigma == other.sigma
