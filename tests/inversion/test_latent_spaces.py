"""Z, Z+, P_N and P_N+ of a GAN."""

from __future__ import annotations

import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.spaces.latent import P, PPlus, Z, ZPlus
from inversion.spaces.style import WPlus
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, refusal
from unified.contract.reference import Reference
from unified.inversion import InvertSettings, invert


def mapped(count: int, *, seed: int = 0) -> torch.Tensor:
    """w [count, width] of random latents."""
    gan = tiny("stylegan", torch.float64)
    z = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return gan.mapping(z)[:, 0].double()


def stage(*spaces, **settings) -> Recipe:
    return Recipe("test", (Stage(spaces, Optimize(**settings)),), scheme="", cite="")


def test_whitened_samples_have_mean_zero_and_covariance_one() -> None:
    """Of samples that the axes were not made from; their sampling error is about 1 / sqrt(20 000) = 0.007."""
    v = tiny("stylegan", torch.float64).whitened(mapped(20_000))
    assert v.mean(0).abs().max() < 0.05
    assert (v.T @ v / len(v) - torch.eye(16)).abs().max() < 0.1


def test_whitening_is_inverted_exactly_also_far_from_the_samples() -> None:
    gan = tiny("stylegan", torch.float64)
    w = 5 * torch.randn(7, 3, 16, dtype=torch.float64)
    assert torch.allclose(gan.unwhitened(gan.whitened(w)), w, atol=1e-9)


def test_length_is_the_mahalanobis_distance_before_the_last_activation() -> None:
    """Computed independently: negative numbers times five, inverse of the samples' covariance."""
    gan = tiny("stylegan", torch.float64)
    samples = mapped(40_000, seed=1)
    x = torch.where(samples < 0, 5 * samples, samples)
    inverse = torch.linalg.inv(torch.cov(x.T))
    w = mapped(5, seed=2)
    d = torch.where(w < 0, 5 * w, w) - x.mean(0)
    expected = torch.einsum("ni,ij,nj->n", d, inverse, d)
    assert torch.allclose(gan.whitened(w).square().sum(1), expected, rtol=0.05)


@pytest.mark.parametrize("space", [P(), PPlus()])
def test_p_starts_at_the_density_s_centre_and_takes_over_earlier_styles(space) -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    with gan.bound() as view:
        assert not space.initial(view, reference, rng=Random(0)).tensors["p"].any()
    styles = mapped(2).float().unsqueeze(1).repeat(1, gan.style_shape()[0], 1)
    earlier = Concept([WPlus().code({"w": styles})])
    with gan.bound(earlier) as view:
        code = space.initial(view, reference, rng=Random(0))
    with gan.bound(Concept([code])) as view:
        assert torch.allclose(view.slots["styles"].read(), styles, atol=1e-4)


@pytest.mark.parametrize("space", [Z(), ZPlus()])
def test_z_renders_what_the_mapping_network_makes_of_it(space) -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    with gan.bound() as view:
        code = space.initial(view, reference, rng=Random(0))
    z = code.tensors["z"].reshape(2, -1, 16)[:, 0]
    with gan.bound(Concept([code])) as view:
        image = view.attempt(reference, rng=Random(0)).render()
    assert torch.allclose(image, gan.synthesis(gan.mapping(z)) / 2 + 0.5, atol=1e-5)


def test_more_starts_begin_nearer() -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 3)

    def error(space: Z) -> torch.Tensor:
        with gan.bound() as view:
            code = space.initial(view, reference, rng=Random(0))
        with gan.bound(Concept([code])) as view:
            return view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)

    few, many = error(Z(starts=2)), error(Z(starts=20))
    assert bool((many <= few + 1e-6).all()) and bool((many < few).any())


def test_hard_clipping_sets_the_bound_and_stochastic_draws_anew() -> None:
    """Lipton & Tripathi 2017: numbers inside stay; outside, either the bound or a new draw from the prior."""
    values = torch.tensor([[0.5, -0.9, 1.5, -7.0]]).repeat(3000, 1)
    inside = values.abs() <= 1

    def clipped(kind: str) -> torch.Tensor:
        space = Z(clipping=kind, bound=1.0)
        code = space.code({"z": values.clone()})
        space.project(code, rng=Random(0), keys=range(len(values)))
        return code.tensors["z"]

    hard, stochastic = clipped("hard"), clipped("stochastic")
    assert torch.equal(hard, values.clamp(-1, 1))
    assert torch.equal(stochastic[inside], values[inside])
    drawn = stochastic[~inside]
    assert drawn.abs().max() <= 1
    # Variance of a normal number between -1 and 1: 1 - 2 phi(1) / (2 Phi(1) - 1) = 0.2911.
    assert drawn.mean().abs() < 0.03 and drawn.var() == pytest.approx(0.2911, abs=0.02)


def test_the_prior_pulls_p_towards_the_mean() -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    sizes = []
    for density in (0.0, 1.0):
        concept = invert(gan, reference, stage(PPlus(density=density), steps=20, lr=0.1, keep="last"), InvertSettings())
        sizes.append(float(concept.codes[0].tensors["p"].square().mean()))
    assert sizes[1] < 0.5 * sizes[0]


def test_z_finds_a_sample_again() -> None:
    gan = tiny("stylegan")
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
    reference = Reference(gan.synthesis(gan.mapping(z)) / 2 + 0.5)
    concept = invert(gan, reference, stage(Z(starts=20), steps=150, lr=0.1, schedule="cosine"), InvertSettings())
    losses = concept.meta["stages"][0]["losses"]
    assert losses[-1] < 0.1 * losses[0]


def test_only_gans_have_these_spaces() -> None:
    for space in (Z(), ZPlus(), P(), PPlus()):
        reason = refusal(type(tiny("stable-diffusion")), [Stage((space,), Optimize())])
        assert reason is not None and "renders from style vectors" in reason
