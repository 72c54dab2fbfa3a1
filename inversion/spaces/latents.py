"""Spaces that hold the clean latents of the pictures: nothing is inverted, sampling or a scheme uses them."""

from __future__ import annotations

from collections.abc import Callable
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
from unified.denoising.space import NoiseSpace, Rows, inverted


@dataclass(frozen=True)
class PictureLatents(NoiseSpace):
    """The autoencoder's latents of the pictures: latents [pictures, *latent shape].

    Schemes that need no inversion start from them (slot "data"). Sampled plainly under a prompt, they are noised
    to the level that `skip` leaves off at and denoised from there (SDEdit, Meng et al. 2022, algorithm 1).
    """

    name: ClassVar[str] = "latents"
    slot: ClassVar[str] = "data"
    encodes: ClassVar[bool] = True

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Denoises)
        with torch.no_grad():
            latents = backbone.encode(view, reference.images)
        prompts = reference.captions or ("",) * len(reference)
        return inverted(self, {"latents": latents}, prompts=prompts, sampling={}, reconstruction={})

    def data(self, rows: Rows) -> Tensor | None:
        return rows["latents"]

    def start(self, rows: Rows, *, level: Level, first: int, steps: int, noise: Callable[[], Tensor]) -> Tensor | None:
        return level.a * rows["latents"] + level.s * noise()


@dataclass(frozen=True)
class Anchor(NoiseSpace):
    """Clean latents that sampling is drawn to (Rout et al. 2024, equation 15): latents [pictures, *latent shape].

    v + eta ((X - y0)/s - v) over the share `begin` to `end` of the steps, which in terms of x = a x0 + s eps is
    x0^ + eta (y0 - x0^). eta 1 draws straight to the picture, 0 leaves sampling alone. Scaling the concept scales
    eta.
    """

    eta: float = 0.9
    begin: float = 0.0
    end: float = 0.25

    name: ClassVar[str] = "anchor"
    slot: ClassVar[str] = "anchor"
    scales: ClassVar[bool] = True

    def bind(self, view: View, code: Code, name: str) -> None:
        eta = torch.full((code.pictures or 1, 1, 1, 1), self.eta * view.binding.weight, dtype=torch.float64)
        view.slot(self.slot, code, lambda: {**code.tensors, "eta": eta})

    def steer(
        self, rows: Rows, x: Tensor, x0: Tensor, eps: Tensor, *, level: Level, number: int, steps: int
    ) -> tuple[Tensor, Tensor]:
        if not self.begin * steps <= number < self.end * steps:
            return x0, eps
        drawn = x0 + rows["eta"].to(x0.dtype) * (rows["latents"] - x0)
        return drawn, (x - level.a * drawn) / level.s


for _space in (PictureLatents, Anchor):
    spaces.register(_space.name, _space)
