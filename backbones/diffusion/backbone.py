"""What every diffusion and flow backbone shares: the training error, sampling and its levels.

Everything is written for x = a x0 + s eps. With that, DDIM (Song et al. 2021, equation 12, eta 0) and the
Euler step of a flow are the same step: from (x0, eps) at one level to a' x0 + s' eps at the next.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone, Level, Sampling
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError
from unified.sampling import override

Condition = Mapping[str, Tensor]


@dataclass(frozen=True)
class DiffusionSampling(Sampling):
    """steps: denoising steps. guidance: weight of classifier-free guidance (1: none)."""

    steps: int = 25
    guidance: float = 5.0


class DiffusionBackbone(Backbone):
    """A frozen diffusion or flow model. Subclasses implement the `Denoises` members."""

    label: ClassVar[str] = "diffusion"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD,)
    default_recipe: ClassVar[str] = "textual-inversion"
    sampling: DiffusionSampling = DiffusionSampling()

    # --- Denoises -----------------------------------------------------------------------------------------

    @abstractmethod
    def levels(self, steps: int) -> Sequence[Level]: ...

    @abstractmethod
    def random_levels(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]: ...

    @abstractmethod
    def encode(self, view: View, images: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, view: View, latents: Tensor) -> Tensor: ...

    @abstractmethod
    def condition(self, view: View, prompts: Sequence[str]) -> Condition: ...

    @abstractmethod
    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor: ...

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    @abstractmethod
    def split(self, output: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]: ...

    # --- Backbone -----------------------------------------------------------------------------------------

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """The denoising error at one random level for each picture: |target - prediction|^2, [B, *latent]."""
        x0 = reference.once(("latents", id(self)), lambda images: self.encode(view, images))
        rows = reference.keys
        time, a, s = self.random_levels(rng.child("level").uniform(rows))
        wide = (-1, *([1] * (x0.ndim - 1)))
        a, s = a.view(wide).to(x0.dtype), s.view(wide).to(x0.dtype)
        eps = rng.child("eps").normal(rows, x0.shape[1:], dtype=x0.dtype)
        x = a * x0 + s * eps
        output = self.predict(view, x, time, self.condition(view, prompts))
        error = (output - self.target(x0, eps, a, s)).square()
        return Attempt(error, reference, lambda: self.decode(view, self.split(output, x, a, s)[0]))

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        start = view.slots.get("start")
        count = target.n or (start.code.pictures if start is not None and not target.prompt else 1) or 1
        rows = range(count)
        prompt = target.prompt
        if start is not None:
            settings, prompt = self._as_inverted(settings, start.code.meta, target)
        with torch.no_grad():
            levels = self.levels(settings.steps)
            if start is not None:
                x = start.rows(rows)
            else:
                x = levels[0].s * rng.child("start").normal(rows, self.latent_shape(), dtype=self.dtype)
            condition = self.condition(view, [view.carry(prompt)] * count)
            if settings.guidance != 1.0:
                negative = self.condition(view, [view.carry(target.negative_prompt)] * count)
                condition = {key: torch.cat([negative[key], value]) for key, value in condition.items()}
            for level, following in itertools.pairwise(levels):
                x = self.step(view, x, level, following, condition, settings.guidance)
            return self.decode(view, x).clamp(0, 1)

    def _as_inverted(
        self, settings: DiffusionSampling, meta: Mapping[str, Any], target: Target
    ) -> tuple[DiffusionSampling, str]:
        """Settings that fit an inverted start noise: its steps; its prompt and no guidance if nothing is asked."""
        steps = meta.get("steps")
        asked = target.sampling.get("steps")
        if steps is not None and asked is not None and int(asked) != int(steps):
            raise UserError(
                f"steps={asked} was asked for, but the start noise was inverted with {steps} steps and only they lead"
                f" back. Leave steps out, or invert again with steps={asked}."
            )
        changed: dict[str, Any] = {} if steps is None else {"steps": int(steps)}
        if not target.prompt:
            changed["guidance"] = 1.0
        return override(settings, changed), target.prompt or str(meta.get("prompt", ""))

    def step(
        self, view: View, x: Tensor, level: Level, following: Level, condition: Condition, guidance: float
    ) -> Tensor:
        """One deterministic step; with guidance, `condition` holds the negative rows first, then the positive."""
        x0, eps = self.guided_split(view, x, level, condition, guidance)
        return following.a * x0 + following.s * eps

    def guided_split(
        self, view: View, x: Tensor, level: Level, condition: Condition, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """(x0, eps) at `level`, guided: out_negative + guidance (out_positive - out_negative)."""
        time = torch.full((len(x),), level.time, dtype=torch.float32)
        a, s = (torch.tensor(value, dtype=x.dtype) for value in (level.a, level.s))
        if guidance == 1.0:
            output = self.predict(view, x, time, condition)
        else:
            both = self.predict(view, torch.cat([x, x]), torch.cat([time, time]), condition)
            negative, positive = both.chunk(2)
            output = negative + guidance * (positive - negative)
        return self.split(output, x, a, s)
