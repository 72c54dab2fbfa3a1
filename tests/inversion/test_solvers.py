"""Solvers against diffusers' schedulers, and the order of their round trips on a Gaussian."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.methods.ode import InvertSteps
from inversion.spaces.noise import StartNoise
from tests.inversion.noise import noise_concept
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import tiny
from unified.contract.backbone import Backbone, backbones
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, check
from unified.contract.target import Target
from unified.denoising.solvers import SOLVERS
from unified.errors import UserError


def run_solver(backbone: StableDiffusion, solver: str, x: torch.Tensor, steps: int) -> torch.Tensor:
    with backbone.bound() as view:
        model = _Plain(backbone, view)
        made = SOLVERS[solver]()
        for at, to in itertools.pairwise(backbone.levels(steps)):
            x = made.step(model, x, at, to, None)
    return x


class _Plain:
    """The network without a prompt, as a function of x and the level."""

    def __init__(self, backbone: StableDiffusion, view) -> None:
        from unified.denoising.guided import guided

        self.model = guided(backbone, view, [""], 1.0)

    def __call__(self, x, level):
        with torch.no_grad():
            return self.model.split(x, level)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_dpm_solver_steps_are_those_of_diffusers(prediction: str) -> None:
    pipeline = tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64, prediction=prediction)
    backbone = StableDiffusion("tiny", pipeline)
    scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, lower_order_final=False, final_sigmas_type="sigma_min", use_lu_lambdas=False
    )
    scheduler.set_timesteps(timesteps=[int(level.time) for level in backbone.levels(8)[:-1]])
    scheduler.sigmas = scheduler.sigmas.double()
    scheduler.alphas_cumprod = backbone.alphas_cumprod
    grid = ((1 - backbone.alphas_cumprod) / backbone.alphas_cumprod).sqrt()
    times = [int(level.time) for level in backbone.levels(8)[:-1]] + [0]
    scheduler.sigmas = grid[times]
    start = torch.randn(1, *backbone.latent_shape(), dtype=torch.float64)
    x = start
    with backbone.bound() as view, torch.no_grad():
        condition = backbone.condition(view, [""])
        for time in scheduler.timesteps:
            output = backbone.predict(view, x, time.expand(1), condition)
            x = scheduler.step(output, time, x).prev_sample
    # diffusers takes its steps in single precision.
    assert (run_solver(backbone, "dpm-solver++", start, 8) - x).abs().max() < 1e-4 * x.abs().max()


def test_ancestral_steps_are_those_of_diffusers_with_eta_one() -> None:
    from unified.denoising.steps import ancestral_mean, deviation

    backbone = tiny("stable-diffusion", torch.float64)
    scheduler = DDIMScheduler.from_config(tiny_diffusion.stable_diffusion_pipeline().scheduler.config)
    scheduler.alphas_cumprod = backbone.alphas_cumprod
    scheduler.final_alpha_cumprod = backbone.alphas_cumprod[0]
    scheduler.set_timesteps(8)
    x, eps, z = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
    for (at, to), time in zip(itertools.pairwise(backbone.levels(8)), scheduler.timesteps, strict=True):
        expected = scheduler.step(eps, time, x, eta=1.0, variance_noise=z).prev_sample
        x0 = (x - at.s * eps) / at.a
        assert torch.allclose(ancestral_mean(x0, eps, at, to) + deviation(at, to) * z, expected, atol=1e-9)


def test_first_order_sde_solver_is_the_ancestral_step() -> None:
    backbone = tiny("flux", torch.float64)
    levels = backbone.levels(6)
    x0, eps = torch.randn(2, 1, 1, 8, 8, dtype=torch.float64)
    for at, to in itertools.pairwise(levels):
        x = at.a * x0 + at.s * eps
        steps = [SOLVERS[n]().step(lambda *_: (x0, eps), x, at, to, None) for n in ("ddpm", "sde-dpm-solver++")]
        assert torch.allclose(*steps, atol=1e-12)


class GaussianData(StableDiffusion):
    """The tiny model with the network replaced by the exact eps of data N(0, deviation^2)."""

    deviation = 0.5

    def predict(self, view, latents, time, condition):
        alpha = self.alphas_cumprod[time.long()].view(-1, 1, 1, 1)
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        return s * latents / (a**2 * self.deviation**2 + s**2)


def round_trips(backbone: Backbone, solver: str, counts: tuple[int, ...]) -> list[float]:
    found = []
    for steps in counts:
        concept, _ = noise_concept(backbone, StartNoise(), InvertSteps(steps=steps, solver=solver), count=1)
        found.append(concept.meta["error"]["latents"][0])
    return found


def test_ddim_round_trip_errs_by_one_over_n() -> None:
    backbone = GaussianData("gauss", tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64))
    errors = round_trips(backbone, "ddim", (125, 250, 500))
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.3, errors


def test_second_order_solvers_err_less_than_ddim_at_equal_steps() -> None:
    backbone = GaussianData("gauss", tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64))
    first, second = (round_trips(backbone, solver, (100, 200)) for solver in ("ddim", "dpm-solver++"))
    assert second[0] < first[0] / 3 and second[1] < first[1] / 5
    assert second[0] / second[1] > 3, second  # second order: a quarter; the first step of all is of first order


def test_stochastic_solvers_do_not_invert_steps() -> None:
    with pytest.raises(UserError, match=r"does not invert in this way; ddim and dpm-solver\+\+ would"):
        recipe = Recipe("r", (Stage((StartNoise(),), InvertSteps(solver="ddpm")),), "", "")
        check(backbones.get("stable-diffusion"), recipe, id="sd")


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpm-solver++", "sde-dpm-solver++"])
def test_every_solver_samples_the_gaussian(solver: str) -> None:
    """From standard normal noise with the exact eps the latents come out with the data's deviation, 0.5."""
    backbone = GaussianData("gauss", tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float64))
    target = Target("x", n=2, sampling={"solver": solver, "steps": 500, "guidance": 1.0})
    with backbone.bound() as view:
        found = backbone.sample_latents(view, target, rng=Random(0))
        first = backbone.sample_latents(view, replace(target, n=1), rng=Random(0))
    assert float(found.std()) == pytest.approx(backbone.deviation, rel=0.04)
    assert torch.allclose(found[:1], first, atol=1e-12)
