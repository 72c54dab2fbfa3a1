"""What every diffusion and flow backbone shares: the training error and its levels.

Everything is written for x = a x0 + s eps; sampling is in `unified.denoising`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Level
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.sampler import sample_latents
from unified.denoising.sampling import DenoisingSampling

Condition = Mapping[str, Tensor]


class DiffusionBackbone(Backbone):
    """A frozen diffusion or flow model. Subclasses implement the `Denoises` members."""

    label: ClassVar[str] = "diffusion"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD,)
    default_recipe: ClassVar[str] = "textual-inversion"
    sampling: DenoisingSampling = DenoisingSampling()

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

    @property
    @abstractmethod
    def size_step(self) -> int:
        """What the sides of its pictures must be multiples of, in pixels."""

    # --- Backbone -----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of what it computes in: the weights themselves may be quantised."""
        first = next(iter(self.components.values()))
        return next(value.dtype for value in first.parameters() if value.is_floating_point())

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
        with torch.no_grad():
            latents = self.sample_latents(view, target, rng=rng)
            return self.decode(view, latents).clamp(0, 1)

    def sample_latents(self, view: View, target: Target, *, rng: Random) -> Tensor:
        return sample_latents(view, target, rng=rng)
