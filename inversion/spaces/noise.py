"""Noise spaces of diffusion and flow models (survey section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Denoises, Level
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import spaces
from unified.contract.view import View
from unified.denoising.space import NoiseSpace, Rows
from unified.errors import UserError


@dataclass(frozen=True)
class StartNoise(NoiseSpace):
    """The latents at the noisiest level that sampling starts from: latents [pictures, *latent shape]."""

    name: ClassVar[str] = "start-noise"
    slot: ClassVar[str] = "start"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Denoises)
        shape = backbone.latent_shape()
        return self.code({"latents": rng.normal(reference.keys, shape, dtype=view.backbone.dtype)})

    def start(self, rows: Rows, *, level: Level, first: int, steps: int, noise: Callable[[], Tensor]) -> Tensor | None:
        if first > 0:
            raise UserError(
                f"The first {first} steps were to be skipped, but start noise is known at the noisiest level only:"
                " leave skip out, or invert with a recipe that keeps every level, such as 'ddpm-inversion'."
            )
        return rows["latents"]


@dataclass(frozen=True)
class StepNoise(NoiseSpace):
    """The noise of every step of a stochastic sampler (Huberman-Spiegelglas et al. 2024).

    trajectory [pictures, steps, *latent shape]: the latents each step begins with. offsets, of the same shape:
    what is added to the mean of each step, sigma z. Not z: where sigma is 0, as at the last step of a flow, z
    does not exist, and what the mean lacks there would be lost (the published code sets it to 0).
    """

    name: ClassVar[str] = "noise-maps"
    slot: ClassVar[str] = "start"

    def start(self, rows: Rows, *, level: Level, first: int, steps: int, noise: Callable[[], Tensor]) -> Tensor | None:
        kept = rows["trajectory"].shape[1]
        begin = first - (steps - kept)
        if begin < 0:
            raise UserError(
                f"The sampler was to begin at step {first} of {steps}, but this was inverted from step"
                f" {steps - kept} on: raise skip, or invert again with a smaller one."
            )
        return rows["trajectory"][:, begin]

    def offset(self, rows: Rows, *, number: int, steps: int, source: int) -> Tensor | None:
        offsets = rows["offsets"]
        return offsets[:, number - (steps - offsets.shape[1])]


@dataclass(frozen=True)
class Unconditional(NoiseSpace):
    """What stands for the empty prompt in guidance, one for each step of the sampler or one for all.

    Parts of the condition by name, text [pictures, steps or 1, tokens, width] at least; others stay those of the
    empty prompt (Mokady et al. 2023, section 3.2: the text alone is optimised).
    """

    name: ClassVar[str] = "unconditional"
    slot: ClassVar[str] = "unconditional"
    sets_negative: ClassVar[bool] = True

    def negative(self, rows: Rows, condition: Mapping[str, Tensor], *, number: int) -> Mapping[str, Tensor]:
        return replaced(condition, {key: each[:, min(number, each.shape[1] - 1)] for key, each in rows.items()})


@dataclass(frozen=True)
class Differences(NoiseSpace):
    """What each step of the reconstruction must be corrected by (Ju et al. 2023, algorithm 1).

    differences [pictures, steps, *latent shape]. They apply to the reconstruction only, alone or as the source
    rows of a pair; pictures with a prompt of their own start from the same noise and go uncorrected.
    """

    name: ClassVar[str] = "differences"
    slot: ClassVar[str] = "differences"

    def offset(self, rows: Rows, *, number: int, steps: int, source: int) -> Tensor | None:
        if source == 0:
            return None
        found = rows["differences"][:, number]
        keep = torch.arange(len(found)) < source
        return torch.where(keep.view(-1, *([1] * (found.ndim - 1))), found, torch.zeros_like(found))


def replaced(condition: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The condition with other parts of the same shapes.

    Raises UserError if it does not say what the network reads by token features "text" alone.
    """
    if any(key not in condition or condition[key].shape[1:] != part.shape[1:] for key, part in parts.items()) or (
        "keys" in condition
    ):
        raise UserError(
            "The unconditional embedding cannot be set here: the prompt is read differently in each layer or at each"
            " time. Bind it without concepts of the kind of 'p-plus' or 'neti'."
        )
    return {**condition, **parts}


for _space in (StartNoise, StepNoise, Unconditional, Differences):
    spaces.register(_space.name, _space)
