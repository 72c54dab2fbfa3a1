"""The spaces before W: the latents Z that the mapping network takes, and the whitened P_N (survey section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from inversion.spaces.style import StyleVectors
from unified.contract.abilities import Maps, Renders
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import spaces
from unified.contract.view import View
from unified.errors import UserError


def _maps(view: View) -> Maps:
    backbone = view.backbone
    assert isinstance(backbone, Maps)
    return backbone


def _renders(view: View) -> Renders:
    backbone = view.backbone
    assert isinstance(backbone, Renders)
    return backbone


@dataclass(frozen=True)
class Z(StyleVectors):
    """The latent that random samples are drawn in: z [pictures, latent width], starting from a random one.

    starts: how many random latents are tried; each picture keeps the one whose rendering is nearest in squared
        pixels (survey section 3.3.1).
    clipping: what becomes of numbers outside of -bound..bound after a step: "none"; "hard": the bound; or
        "stochastic": a new draw from the prior within the bounds (Lipton & Tripathi 2017, section 3). Their
        prior is uniform in -1..1, where a bound follows from the prior; of a normal prior we take `bound`
        standard deviations as its support.
    density: weight of the prior |z|^2 / width, minus twice the logarithm of z's density for each of its numbers
        (Creswell & Bharath 2018, section 3.2).
    """

    name: ClassVar[str] = "z"
    needs: ClassVar[tuple[type, ...]] = (Renders, Maps)

    starts: int = 1
    clipping: Literal["none", "hard", "stochastic"] = "none"
    bound: float = 3.0
    density: float = 0.0

    def vectors(self, view: View, code: Code) -> Tensor:
        z = code.tensors["z"]
        w = _maps(view).map_latents(view, z.flatten(0, -2))
        return w.reshape(*z.shape[:-1], -1)

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        return self.code({"z": self._nearest(view, reference, rng)})

    @torch.no_grad()
    def _nearest(self, view: View, reference: Reference, rng: Random) -> Tensor:
        """The best of the random latents for each picture, [pictures, latent width]."""
        if self.starts < 1:
            raise UserError(f"starts={self.starts} was given: at least one random latent has to be tried.")
        width = _maps(view).latent_width()
        draws = [
            _bounded_normal(rng.child(i), reference.keys, (width,), self._limit(), reference.images.dtype)
            for i in range(self.starts)
        ]
        if self.starts == 1:
            return draws[0]
        number, _ = _renders(view).style_shape()
        errors = []
        for z in draws:
            styles = _maps(view).map_latents(view, z).unsqueeze(1).expand(-1, number, -1)
            errors.append((_renders(view).render(view, styles) - reference.images).square().flatten(1).mean(1))
        best = torch.stack(errors).argmin(0)
        return torch.stack(draws)[best, torch.arange(len(best))]

    def prior(self, view: View, code: Code) -> Tensor:
        return self.density * code.tensors["z"].square().flatten(1).mean(1)

    def _limit(self) -> float | None:
        return None if self.clipping == "none" else self.bound

    def project(self, code: Code, *, rng: Random, keys: Sequence[int]) -> None:
        z = code.tensors["z"]
        if self.clipping == "hard":
            z.clamp_(-self.bound, self.bound)
        elif self.clipping == "stochastic":
            fresh = _bounded_normal(rng, keys, z.shape[1:], self.bound, z.dtype)
            z.copy_(torch.where(z.abs() > self.bound, fresh, z))


def _bounded_normal(
    rng: Random, keys: Sequence[int], shape: Sequence[int], bound: float | None, dtype: torch.dtype
) -> Tensor:
    """Normal numbers [len(keys), *shape], without those beyond the bound: the inverse of the distribution
    function, taken of numbers that are uniform between its values at the bounds."""
    if bound is None:
        return rng.normal(keys, shape, dtype=dtype)
    low, high = (torch.special.ndtr(torch.tensor(b, dtype=torch.float64)) for b in (-bound, bound))
    uniform = rng.uniform(keys, shape).double()
    return torch.special.ndtri(low + (high - low) * uniform).clamp(-bound, bound).to(dtype)


@dataclass(frozen=True)
class ZPlus(Z):
    """One latent for each layer: z [pictures, number, latent width] (Song et al. 2021, AgileGAN: Z+).

    Starts from one random latent for all layers.
    """

    name: ClassVar[str] = "z+"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        number, _ = _renders(view).style_shape()
        return self.code({"z": self._nearest(view, reference, rng).unsqueeze(1).repeat(1, number, 1)})


@dataclass(frozen=True)
class P(StyleVectors):
    """W in whitened axes, P_N (Zhu et al. 2020, Improved StyleGAN Embedding, section 3.2): p [pictures, width].

    v = (LeakyReLU_5(w) - mean) C / deviations, so mapped latents have mean 0 and covariance 1 and |v|^2 is the
    squared Mahalanobis distance from the mean. Starts from an earlier stage's w if there is one, else from 0.

    density: weight of the prior |v|^2 / width.
    """

    name: ClassVar[str] = "p"
    needs: ClassVar[tuple[type, ...]] = (Renders, Maps)

    density: float = 0.0

    def vectors(self, view: View, code: Code) -> Tensor:
        return _maps(view).unwhitened(code.tensors["p"])

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        _, width = _renders(view).style_shape()
        if "styles" in view.slots:
            return self.code({"p": self._whitened_slot(view).mean(1)})
        return self.code({"p": torch.zeros(len(reference), width, dtype=reference.images.dtype)})

    @staticmethod
    def _whitened_slot(view: View) -> Tensor:
        return _maps(view).whitened(view.slots["styles"].read().detach())

    def prior(self, view: View, code: Code) -> Tensor:
        return self.density * code.tensors["p"].square().flatten(1).mean(1)


@dataclass(frozen=True)
class PPlus(P):
    """One whitened vector for each layer, P_N+: p [pictures, number, width] (Zhu et al. 2020, section 3.3).

    Not to be confused with 'p+', one word for each layer that reads the prompt.
    """

    name: ClassVar[str] = "pn+"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        number, width = _renders(view).style_shape()
        if "styles" in view.slots:
            return self.code({"p": self._whitened_slot(view).clone()})
        return self.code({"p": torch.zeros(len(reference), number, width, dtype=reference.images.dtype)})


spaces.register("z", Z)
spaces.register("z+", ZPlus)
spaces.register("p", P)
spaces.register("pn+", PPlus)
