"""From noise to data, with everything that bound noise codes have to say about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unified.contract.abilities import Denoises, Level, lacked
from unified.contract.random import Random
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.contract.view import Slot, View
from unified.denoising.guided import Condition, Guided, middle
from unified.denoising.sampling import DenoisingSampling
from unified.denoising.solvers import SOLVERS
from unified.denoising.space import NoiseSpace, Rows
from unified.errors import UserError
from unified.sampling import override, own_sampling

Steer = Callable[[Tensor, Tensor, Tensor, Level], tuple[Tensor, Tensor]]
"""(x, x0, eps, level) -> the (x0, eps) to go on with."""


def noise_slots(view: View) -> list[tuple[NoiseSpace, Slot]]:
    """The slots of the view that codes of noise spaces fill."""
    found = []
    for slot in view.slots.values():
        space = space_of(slot.code)
        if isinstance(space, NoiseSpace):
            found.append((space, slot))
    return found


def pictures_in(view: View) -> int:
    """How many pictures the noise codes hold; one if there are none."""
    return next((slot.code.pictures for _, slot in noise_slots(view) if slot.code.pictures), 1)


def sample_latents(view: View, target: Target, *, rng: Random, steer: Steer | None = None) -> Tensor:
    """Latents [n, *latent_shape] under the target's prompt; without a prompt, the pictures as inverted.

    n: the target's, else the number of inverted pictures, else one. Row i depends on stream i of `rng`.
    steer: changes what the guided network says, at each of its calls; then the target's skip counts without a
    prompt too.
    Raises UserError for settings that contradict those that a bound code was inverted with.
    """
    settings = settings_for(view, target, as_inverted=not target.prompt)
    if steer is not None and "skip" in target.sampling:
        settings = replace(settings, skip=settings_for(view, target, as_inverted=False).skip)
    count = target.n or pictures_in(view)
    pictures = list(range(count))
    data = [x for space, slot in noise_slots(view) if (x := space.data(slot.rows(pictures))) is not None]
    if data and not target.prompt and steer is None:
        return data[0]
    prompts = [target.prompt] * count if target.prompt else inverted_prompts(view, pictures)
    branch = Branch(prompts, [settings.guidance] * count, source=0 if target.prompt else count)
    return _run(view, settings, branch, pictures, target.negative_prompt, rng, steer)


def sample_pair(view: View, target: Target, *, rng: Random, steer: Steer | None = None) -> tuple[Tensor, Tensor]:
    """(source, target): the pictures as inverted and under the target's prompt, [n, *latent_shape] each.

    The source's prompt is the target's `source`, else the one that it was inverted with. steer: as above, of both.

    Both go through the network in one batch, the source rows first, so that attention editors can carry
    attention over from the source (Hertz et al. 2022). Only the source rows follow what was recorded for the
    reconstruction (Ju et al. 2023, algorithm 1). The source's guidance is that of the inversion.
    """
    back = settings_for(view, Target(sampling=target.sampling), as_inverted=True)
    settings = settings_for(view, target, as_inverted=False)
    count = target.n or pictures_in(view)
    pictures = list(range(count))
    before = [target.source] * count if target.source else inverted_prompts(view, pictures)
    prompts = [*before, *[target.prompt] * count]
    branch = Branch(prompts, [back.guidance] * count + [settings.guidance] * count, source=count)
    source, edited = _run(view, settings, branch, pictures * 2, target.negative_prompt, rng, steer).chunk(2)
    return source, edited


def sample_rows(view: View, target: Target, prompts: Sequence[str], *, rng: Random) -> Tensor:
    """Latents [len(prompts), *latent_shape] of one batch: row i under its own prompt, from stream i of `rng`."""
    settings = settings_for(view, target, as_inverted=False)
    branch = Branch(prompts, [settings.guidance] * len(prompts), source=0)
    return _run(view, settings, branch, list(range(len(prompts))), target.negative_prompt, rng)


def inverted_prompts(view: View, pictures: Sequence[int]) -> list[str]:
    """The text each picture was inverted with; "" where none was kept."""
    for _, slot in noise_slots(view):
        known = slot.code.meta.get("pictures")
        if known:
            return [known[i % len(known)]["prompt"] for i in pictures]
    return [""] * len(pictures)


def settings_for(view: View, target: Target, *, as_inverted: bool) -> DenoisingSampling:
    """The backbone's sampling settings with the target's, and with those that bound codes fix.

    as_inverted: also those that give the pictures back, unless other ones are asked for. Raises UserError for what
    contradicts a bound code.
    """
    default = view.backbone.sampling
    assert isinstance(default, DenoisingSampling)
    settings = override(default, target.sampling)
    fixed: dict[str, tuple[str, Any]] = {}
    back: dict[str, Any] = {}
    for space, slot in noise_slots(view):
        for key, value in slot.code.meta.get("sampling", {}).items():
            other, before = fixed.setdefault(key, (space.name, value))
            if before != value:
                raise UserError(
                    f"The code in {other!r} was inverted with {key}={before}, the one in {space.name!r} with"
                    f" {key}={value}: they cannot be sampled together. Invert both with the same {key}."
                )
            asked = target.sampling.get(key)
            if asked is not None and asked != value:
                raise UserError(
                    f"{key}={asked} was asked for, but the code in {space.name!r} was inverted with {key}={value} and"
                    f" only that leads back. Leave {key} out, or invert again with {key}={asked}."
                )
        back |= slot.code.meta.get("reconstruction", {})
        if space.sets_negative and target.negative_prompt:
            raise UserError(
                f"A negative prompt was given, but the code in {space.name!r} takes its place: leave it out."
            )
    own = own_sampling(view.concepts)  # it is in the target too, but nobody has asked for it
    back = {key: value for key, value in back.items() if target.sampling.get(key, own.get(key)) == own.get(key)}
    changes = {key: value for key, (_, value) in fixed.items()}
    settings = override(settings, (back if as_inverted else {}) | changes)
    if lacked(view.backbone, SOLVERS[settings.solver].needs):
        able = ", ".join(n for n, s in SOLVERS.items() if not lacked(view.backbone, s.needs))
        raise UserError(f"solver={settings.solver!r} does not work on {view.backbone.id}; choose one of {able}.")
    return settings


@dataclass(frozen=True)
class Branch:
    """The rows of a batch: prompt and guidance of each; the first `source` rows go as inverted."""

    prompts: Sequence[str]
    guidance: Sequence[float]
    source: int


def _run(
    view: View,
    settings: DenoisingSampling,
    branch: Branch,
    pictures: Sequence[int],
    negative_prompt: str,
    rng: Random,
    steer: Steer | None = None,
) -> Tensor:
    backbone = view.backbone
    assert isinstance(backbone, Denoises)
    influences = [(space, slot.rows(pictures)) for space, slot in noise_slots(view)]
    with torch.no_grad():
        positive = backbone.condition(view, [view.carry(prompt) for prompt in branch.prompts])
        negative: Condition | None = None
        if any(weight != 1.0 for weight in branch.guidance):
            negative = backbone.condition(view, [view.carry(negative_prompt)] * len(pictures))
        model = Guided(backbone, view, positive, negative, branch.guidance)
        levels = backbone.levels(settings.steps)
        x = _start(view, settings, levels, influences, pictures, rng)
        solver = SOLVERS[settings.solver]()
        steering = _Steering(model, negative, influences, settings.steps, steer)
        for number, (at, to) in list(enumerate(itertools.pairwise(levels)))[settings.first :]:
            steering.begin(number)
            x = solver.step(steering.split, x, at, to, middle(backbone, at, to))
            offset = steering.offset(number, branch.source)
            deviation = solver.deviation(at, to)
            if offset is not None:
                x = x + offset
            elif deviation > 0:
                x = x + deviation * rng.child("step", number).normal(pictures, x.shape[1:], dtype=x.dtype)
    return x


def _start(
    view: View,
    settings: DenoisingSampling,
    levels: Sequence[Level],
    influences: Sequence[tuple[NoiseSpace, Rows]],
    pictures: Sequence[int],
    rng: Random,
) -> Tensor:
    backbone = view.backbone
    assert isinstance(backbone, Denoises)

    def noise() -> Tensor:
        return rng.child("start").normal(pictures, backbone.latent_shape(), dtype=view.backbone.dtype)

    level = levels[settings.first]
    for space, rows in influences:
        x = space.start(rows, level=level, first=settings.first, steps=settings.steps, noise=noise)
        if x is not None:
            return x
    if settings.first > 0:
        raise UserError(
            f"skip={settings.skip} was asked for, but no concept knows the picture's latents at that level: invert with"
            " a recipe that does (such as 'ddpm-inversion'), or leave skip out."
        )
    return level.s * noise()


@dataclass
class _Steering:
    """The guided network as the noise codes want it at the present step."""

    model: Guided
    negative: Condition | None
    influences: Sequence[tuple[NoiseSpace, Rows]]
    steps: int
    steer: Steer | None
    number: int = 0

    def begin(self, number: int) -> None:
        self.number = number
        condition: Mapping[str, Tensor] | None = self.negative
        if condition is None:
            return
        for space, rows in self.influences:
            condition = space.negative(rows, condition, number=number)
        self.model.negative = condition

    def split(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        x0, eps = self.model.split(x, level)
        for space, rows in self.influences:
            x0, eps = space.steer(rows, x, x0, eps, level=level, number=self.number, steps=self.steps)
        return (x0, eps) if self.steer is None else self.steer(x, x0, eps, level)

    def offset(self, number: int, source: int) -> Tensor | None:
        for space, rows in self.influences:
            found = space.offset(rows, number=number, steps=self.steps, source=source)
            if found is not None:
                return found
        return None
