"""Boundaries and conditional directions, against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.latent.interfacegan import boundary, conditional
from unified.errors import UserError


def unit(*values: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=0)


def test_normal_of_a_linear_score() -> None:
    generator = torch.Generator().manual_seed(1)
    spread = torch.linspace(0.5, 2.0, 8)
    latents = 3.0 + torch.randn(8000, 8, generator=generator) * spread
    truth = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)
    found = boundary(latents, latents @ truth, fraction=0.1)
    assert float(found.normal @ truth) > 0.97
    assert found.normal.norm() == pytest.approx(1.0, abs=1e-6)
    assert found.accuracy == 1.0 and found.held_out == 2 * 240


def test_two_clusters_give_the_line_between_them() -> None:
    """Separable clusters that differ in one coordinate: the widest margin is across that coordinate."""
    side = torch.tensor([-1.0, 1.0]).repeat(500)
    latents = torch.stack([side, torch.linspace(-1, 1, 1000)], dim=1)
    found = boundary(latents, side, fraction=0.5)
    torch.testing.assert_close(found.normal, torch.tensor([1.0, 0.0]), atol=0.02, rtol=0)
    flipped = boundary(latents, -side, fraction=0.5)
    torch.testing.assert_close(flipped.normal, torch.tensor([-1.0, 0.0]), atol=0.02, rtol=0)


def test_any_increasing_score_and_any_scale_give_the_same_normal() -> None:
    latents = torch.randn(2000, 4, generator=torch.Generator().manual_seed(2))
    score = latents[:, 0] + 0.3 * latents[:, 1]
    plain = boundary(latents, score)
    assert torch.equal(boundary(latents, score.exp()).normal, plain.normal)
    torch.testing.assert_close(boundary(100 * latents + 7, score).normal, plain.normal, atol=1e-3, rtol=0)


def test_scores_without_relation_give_chance_accuracy() -> None:
    generator = torch.Generator().manual_seed(3)
    found = boundary(torch.randn(4000, 4, generator=generator), torch.randn(4000, generator=generator), fraction=0.5)
    assert abs(found.accuracy - 0.5) < 0.06


@pytest.mark.parametrize(
    ("latents", "scores", "fraction", "said"),
    [
        (torch.randn(50, 4), torch.randn(50), 0.02, "too few"),
        (torch.randn(50, 4), torch.ones(50), 0.5, "apart"),
        (torch.randn(50, 4), torch.full((50,), float("nan")), 0.5, "apart"),
        (torch.randn(50, 4), torch.randn(49), 0.5, "expected"),
        (torch.randn(50, 4), torch.randn(50), 0.6, "expected"),
    ],
)
def test_refusals(latents: torch.Tensor, scores: torch.Tensor, fraction: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        boundary(latents, scores, fraction=fraction)


def test_the_number_of_samples_that_a_refusal_names_is_enough() -> None:
    with pytest.raises(UserError, match=r"at\s+least (\d+)") as caught:
        boundary(torch.randn(50, 4), torch.randn(50))
    count = int(str(caught.value).split("at least ")[1].split()[0])
    boundary(torch.randn(count, 4), torch.randn(count))


def test_conditional_closed_form() -> None:
    """Two directions (paper, section 3.3): n1 - <n1, n2> n2, normalised."""
    n1, n2 = unit(1, 2, 3), unit(0, 1, 1)
    expected = torch.nn.functional.normalize(n1 - (n1 @ n2) * n2, dim=0)
    torch.testing.assert_close(conditional(n1, n2), expected)
    torch.testing.assert_close(conditional(unit(1, 1, 0), unit(1, 0, 0)), unit(0, 1, 0))
    torch.testing.assert_close(conditional(n1), n1)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(6, 40))
def test_conditional_keeps_the_other_scores(seed: int, others: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    primal, w = torch.randn(2, width, generator=generator, dtype=torch.float64)
    normals = torch.randn(others, width, generator=generator, dtype=torch.float64)
    direction = conditional(primal, *normals)
    assert direction.norm() == pytest.approx(1.0)
    torch.testing.assert_close(normals @ (w + 2.5 * direction), normals @ w)
    assert float(direction @ primal) > 0
    # A repeated condition changes nothing.
    torch.testing.assert_close(conditional(primal, *normals, normals[0], -normals[0]), direction)


def test_conditional_on_itself_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is left"):
        conditional(unit(1, 2, 3), unit(1, 0, 0), unit(0, 2, 3))


def test_the_low_end_of_one_of_several_values_is_taken_evenly_from_the_others() -> None:
    """Values at corners of a triangle; the score is lowest for one of them, which alone would give the boundary."""
    generator = torch.Generator().manual_seed(6)
    shown = torch.arange(3000) % 3
    corners = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    latents = 5 * corners[shown] + 0.3 * torch.randn(3000, 3, generator=generator)
    scores = torch.tensor([5.0, -1.0, -9.0])[shown] + 0.1 * torch.randn(3000, generator=generator)
    one_sided = boundary(latents, scores, fraction=0.3, softness=1e-5)
    torch.testing.assert_close(one_sided.normal, unit(1, 0, -1), atol=0.05, rtol=0)
    even = boundary(latents, scores, fraction=0.3, shown=shown, softness=1e-5)
    torch.testing.assert_close(even.normal, unit(2, -1, -1), atol=0.05, rtol=0)
    assert even.accuracy == 1.0
    with pytest.raises(UserError, match="show another value"):
        boundary(latents, scores, fraction=0.3, shown=torch.zeros_like(shown))
