"""Inversions that are for rectified flows: closed forms and orders of convergence."""

from __future__ import annotations

import itertools

import pytest
import torch

from backbones.diffusion.flux import Flux
from inversion.methods.controlled import ControlledFlow
from inversion.methods.ode import InvertSteps
from inversion.spaces.latents import Anchor
from inversion.spaces.noise import StartNoise
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.backbone import backbones
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, check, recipes
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


class GaussianFlow(Flux):
    """The tiny flow with the network replaced by the exact velocity of data N(0, deviation^2)."""

    deviation = 0.5

    def predict(self, view, latents, time, condition):
        s = time.view(-1, 1, 1, 1).to(latents.dtype)
        # E[eps - x0 | x] for x = (1 - s) x0 + s eps
        return latents * (s - (1 - s) * self.deviation**2) / ((1 - s) ** 2 * self.deviation**2 + s**2)


def gaussian_flow() -> GaussianFlow:
    return GaussianFlow("gauss", tiny_diffusion.flux_pipeline(dtype=torch.float64))


def controlled(backbone: Flux, *, anchor: Anchor, steps: int = 8, gamma: float = 0.5) -> Concept:
    stage = Stage((StartNoise(), anchor), ControlledFlow(steps=steps, gamma=gamma))
    return invert(backbone, pictures(backbone, 2), Recipe("t", (stage,), "", ""), InvertSettings())


def test_gamma_one_goes_straight_to_a_standard_normal_sample() -> None:
    backbone = tiny("flux", torch.float64)
    found = controlled(backbone, anchor=Anchor(), gamma=1.0).codes[0].tensors["latents"]
    expected = Random(0).child("invert", 0, "noise").normal((0, 1), backbone.latent_shape(), dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-9)


def test_eta_one_to_the_end_gives_the_picture_whatever_the_network_and_the_start() -> None:
    backbone = tiny("flux", torch.float64)
    concept = controlled(backbone, anchor=Anchor(eta=1.0, end=1.0))
    assert max(concept.meta["error"]["latents"]) < 1e-9


def test_without_control_it_is_eulers_method_on_the_samplers_own_grid() -> None:
    """The grid is the shifted one of the pipeline; the step and the model's time must agree on it."""
    backbone = tiny("flux", torch.float64)
    times = []
    plain = backbone.predict

    def recorded(view, latents, time, condition):
        times.append(float(time[0]))
        return plain(view, latents, time, condition)

    try:
        backbone.predict = recorded
        concept = controlled(backbone, anchor=Anchor(eta=0.0), gamma=0.0, steps=5)
    finally:
        del backbone.predict
    grid = [level.s for level in backbone.levels(5)]
    assert times[:5] == pytest.approx(grid[:0:-1])
    with backbone.bound() as view, torch.no_grad():
        x = backbone.encode(view, pictures(backbone, 2).images)
        condition = backbone.condition(view, ["", ""])
        for at, to in itertools.pairwise(grid[::-1]):
            x = x + (to - at) * backbone.predict(view, x, torch.full((2,), at), condition)
    # The times go to the network in single precision.
    assert torch.allclose(concept.codes[0].tensors["latents"], x, atol=1e-6)


def test_scaling_the_concept_scales_the_pull() -> None:
    backbone = tiny("flux", torch.float64)
    half, full = (controlled(backbone, anchor=Anchor(eta=eta, end=0.5)) for eta in (0.4, 0.8))
    drawn = []
    for concept in (half, full.scaled(0.5)):
        with backbone.bound(concept) as view:
            drawn.append(backbone.sample_latents(view, Target("a dog"), rng=Random(0)))
    assert torch.equal(*drawn)
    start = full.with_codes(full.codes[:1]).scaled(0.5)
    with pytest.raises(UserError, match="no strength"), backbone.bound(start):
        pass


def test_the_pull_makes_reconstruction_better() -> None:
    backbone = tiny("flux")
    free, pulled = (controlled(backbone, anchor=Anchor(eta=eta, end=0.5)) for eta in (0.0, 0.9))
    assert max(pulled.meta["error"]["latents"]) < max(free.meta["error"]["latents"])


@pytest.mark.parametrize(("solver", "low", "high"), [("ddim", 1.7, 2.4), ("rf-solver", 3.3, 9.0)])
def test_order_of_the_flows_solvers_on_a_gaussian(solver: str, low: float, high: float) -> None:
    """Euler's round trip errs by 1/n, RF-Solver's by 1/n^2 or better."""
    backbone = gaussian_flow()
    errors = []
    for steps in (16, 32, 64):
        stage = Stage((StartNoise(),), InvertSteps(steps=steps, solver=solver))
        concept = invert(backbone, pictures(backbone, 1), Recipe("t", (stage,), "", ""), InvertSettings())
        errors.append(concept.meta["error"]["latents"][0])
    for coarse, fine in itertools.pairwise(errors):
        assert low < coarse / fine < high, errors


def test_rf_solver_lands_on_the_exact_solution() -> None:
    """The flow of a Gaussian scales: x(1) = x(0) / deviation."""
    backbone = gaussian_flow()
    reference = pictures(backbone, 1)
    with backbone.bound() as view, torch.no_grad():
        exact = backbone.encode(view, reference.images) / backbone.deviation
    misses = []
    for solver in ("ddim", "rf-solver"):
        stage = Stage((StartNoise(),), InvertSteps(steps=32, solver=solver))
        concept = invert(backbone, reference, Recipe("t", (stage,), "", ""), InvertSettings())
        misses.append(float((concept.codes[0].tensors["latents"] - exact).abs().max() / exact.abs().max()))
    assert misses[1] < 2e-3 and misses[1] < misses[0] / 10


@pytest.mark.parametrize("name", ["rf-inversion", "rf-solver", "flow-edit"])
def test_recipes_of_flows_are_refused_elsewhere_with_the_reason(name: str) -> None:
    check(backbones.get("flux"), recipes.get(name), id="flux")
    with pytest.raises(UserError, match="straight paths"):
        check(backbones.get("stable-diffusion"), recipes.get(name), id="sd")


def test_the_shipped_recipe_edits_and_keeps_its_steps() -> None:
    backbone = tiny("flux")
    recipe = recipes.get("rf-inversion").with_overrides(steps=4)
    concept = invert(backbone, pictures(backbone, 1), recipe, InvertSettings())
    drawn = backbone.generate(concept, prompt="a dog", output="pt")
    assert drawn.shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match="inverted with steps=4"):
        backbone.generate(concept, prompt="a dog", sampling={"steps": 5})
    with backbone.bound(concept) as view:
        back = backbone.sample_latents(view, Target(), rng=Random(0))
    assert torch.isfinite(back).all()
