"""What the inversions into noise spaces share: prompts, levels and the way up the noise levels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unified.contract.abilities import Denoises, Level, lacked
from unified.contract.backbone import Backbone
from unified.contract.method import Job, Method
from unified.contract.recipe import verb
from unified.contract.space import Space
from unified.contract.view import View
from unified.denoising.guided import Guided, guided, middle, split_at
from unified.denoising.solvers import SOLVERS

PROMPT = "a portrait of a {}"


def denoiser(job: Job) -> Denoises:
    assert isinstance(job.backbone, Denoises)
    return job.backbone


def prompts_of(job: Job, view: View, template: str) -> list[str]:
    """The text of each picture: its caption if it has one, else the template with the concept's carrier in it."""
    reference = job.reference
    if reference.captions is not None:
        return [view.carry(caption) for caption in reference.captions]
    return [view.carry(template.replace("{}", name)).strip() for name in reference.names]


def unfit(method: Method, spaces: Sequence[Space], wanted: Sequence[str]) -> str | None:
    """Why a method that fills exactly `wanted` cannot fill these spaces."""
    if [space.name for space in spaces] == list(wanted):
        return None
    filled = " & ".join(repr(name) for name in wanted)
    return f"the method {method.name!r} fills {filled}, in one stage and nothing else"


def unfit_solver(backbone: type[Backbone], solver: str, *, stochastic: bool) -> str | None:
    """Why this solver cannot be used for inverting on this backbone."""
    able = [name for name, cls in SOLVERS.items() if cls.stochastic == stochastic and not lacked(backbone, cls.needs)]
    if solver in able:
        return None
    known = SOLVERS.get(solver)
    missing = lacked(backbone, known.needs) if known else []
    why = f"needs a backbone that {verb(missing)}" if missing else "does not invert in this way"
    return f"the solver {solver!r} {why}; {' and '.join(able)} would"


def climb(
    backbone: Denoises,
    model: Guided,
    x: Tensor,
    levels: Sequence[Level],
    *,
    solver: str,
    rounds: int = 0,
    report: Callable[[int], None] = lambda number: None,
) -> list[Tensor]:
    """The deterministic sampler backwards: x at every level of `levels`, which go from the data to noise.

    DDIM asks the network at the level it goes to (Mokady et al. 2023, section 3; diffusers does the same):
    x' = a' x0^ + s' eps(x, t') with x0^ = (x - s eps)/a. `rounds` repeat each such step with eps(x', t') of the
    x' it found, a fixed-point iteration towards the exact inverse. The other solvers run their own step
    backwards in s. report: told the number of steps done.
    """
    found = [x]
    steps = SOLVERS[solver]()
    for number, (level, noisier) in enumerate(itertools.pairwise(levels), 1):
        if solver == "ddim":
            x = _climb_ddim(backbone, model, x, level, noisier, rounds)
        else:
            x = steps.step(model.split, x, level, noisier, middle(backbone, level, noisier))
        found.append(x)
        report(number)
    return found


def _climb_ddim(backbone: Denoises, model: Guided, x: Tensor, level: Level, noisier: Level, rounds: int) -> Tensor:
    # The point of the present level, with the network told the time of the level it goes to.
    there = Level(noisier.time, level.a, level.s)
    _, eps = split_at(backbone, model.outputs(x, there), x, there)
    result = noisier.a * (x - level.s * eps) / level.a + noisier.s * eps
    for _ in range(rounds):
        _, eps = model.split(result, noisier)
        result = noisier.a * (x - level.s * eps) / level.a + noisier.s * eps
    return result


def pivots(
    job: Job, view: View, prompts: Sequence[str], *, steps: int, solver: str = "ddim", rounds: int = 0
) -> tuple[list[Tensor], list[Level]]:
    """Latents and levels from noise to data of the inversion without guidance, `steps` + 1 each."""

    def report(number: int) -> None:
        job.progress.advance(number)

    backbone = denoiser(job)
    levels = list(backbone.levels(steps))
    with torch.no_grad():
        x = backbone.encode(view, job.reference.images)
        model = guided(backbone, view, prompts, 1.0)
        climbed = climb(backbone, model, x, levels[::-1], solver=solver, rounds=rounds, report=report)
    return climbed[::-1], levels
