"""Inversion by estimates of the gradient from losses alone, through quantised weights (ZOODiP, Seo et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.black_box import Vector, not_one_vector
from inversion.methods.evolution import prompts_for
from inversion.spaces.quantised import Int8Weights
from unified.contract.abilities import Denoises, Reads, Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.method import Job, Member, Method, methods
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.view import View

_STEADY = 1e-3  # Adam's epsilon in the authors' code


@dataclass(frozen=True)
class ZerothOrder(Method):
    """Adam on two-point estimates (L(v + mu z) - L(v)) / mu z of the gradient (Seo et al. 2025).

    steps, lr: as usual. distance: mu. estimates: directions z a step. quantised: the network's weights are 8-bit
    integers while searching; the concept itself does not hold them. levels: the part of the noise levels (0..1, 1
    is pure noise) that losses are taken at, as text matters there most (partial uniform timesteps).
    Every `history` steps the principal directions of as many last codes are found, each coordinate in units of its
    own deviation; the gradient is from then on freed of those that hold the last `noise` of the variance (subspace
    gradient): they are what noise, and not descent, has moved the code along. 128 steps and 0.99 are the authors' (tau
    and nu of their script), for words of 768 numbers; a shorter code gets a history in that proportion, as one as
    long as the code would leave a single direction to move in.
    """

    name: ClassVar[str] = "zeroth-order"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads, Tunable)

    steps: int = 5000
    lr: float = 5e-3
    distance: float = 1e-3
    estimates: int = 1
    history: int = 128
    noise: float = 0.99
    levels: tuple[float, float] = (0.5, 0.9)
    quantised: bool = True
    templates: tuple[str, ...] = ("{}",)

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return not_one_vector(spaces)

    @torch.no_grad()
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        return [self._descend(job, member, spaces) for member in job.members]

    def _descend(self, job: Job, member: Member, spaces: Sequence[Space]) -> list[Code]:
        reference = member.reference
        with job.backbone.bound(member.concept()) as view:
            codes = [s.initial(view, reference, rng=job.rng.child("initial", s.name)) for s in spaces]
            small = Int8Weights().initial(view, reference, rng=job.rng)
        also = [Concept([small], name="<int8>")] if self.quantised else []
        losses: list[float] = []
        with job.backbone.bound(*also, member.concept(codes)) as view:
            vector = Vector.of(view, spaces, codes, keys=reference.keys)
            values = vector.read()
            descent = Descent(len(values), self, history=min(self.history, max(2, len(values) // 6)))
            job.progress.start(job.label, self.steps)
            try:
                for number in range(self.steps):
                    rng = job.rng.child("step", number)
                    here = self._loss(view, reference, vector, values, rng)
                    directions = rng.child("z").normal(range(self.estimates), values.shape, dtype=torch.float64)
                    there = [self._loss(view, reference, vector, values + self.distance * z, rng) for z in directions]
                    if not all(math.isfinite(loss) for loss in (here, *there)):
                        job.log["stopped"] = f"a loss became NaN or infinite at step {number}"
                        break
                    slopes = torch.tensor([(loss - here) / self.distance for loss in there], dtype=torch.float64)
                    values = descent.step(values, slopes, directions)
                    losses.append(here)
                    job.progress.advance(number + 1, loss=here)
            except KeyboardInterrupt:
                job.log["stopped"] = f"interrupted at step {len(losses)} of {self.steps}"
                job.log["interrupted"] = True
            finally:
                job.progress.finish()
            vector.write(values)
        stride = max(1, len(losses) // 200)
        job.log |= {"steps": len(losses), "losses": losses[::stride]}
        return codes

    def _loss(self, view: View, reference: Reference, vector: Vector, values: Tensor, rng: Random) -> float:
        """The mean squared error of the prediction, with the same noise for all points of a step."""
        vector.write(values)
        backbone = view.backbone
        assert isinstance(backbone, Denoises)
        x0 = reference.once(("latents", id(backbone)), lambda images: backbone.encode(view, images))
        low, high = self.levels
        uniform = low + (high - low) * rng.child("level").uniform(reference.keys)
        time, a, s = backbone.random_levels(uniform)
        wide = (-1, *([1] * (x0.ndim - 1)))
        a, s = a.view(wide).to(x0.dtype), s.view(wide).to(x0.dtype)
        eps = rng.child("eps").normal(reference.keys, x0.shape[1:], dtype=x0.dtype)
        prompts = [view.carry(prompt) for prompt in prompts_for(self.templates, reference, rng)]
        output = backbone.predict(view, a * x0 + s * eps, time, backbone.condition(view, prompts))
        error = (output - backbone.target(x0, eps, a, s)).double().square().mean()
        return float(error + vector.prior(view))


class Descent:
    """Adam, on estimates freed of the directions that noise has moved the code along."""

    def __init__(self, size: int, method: ZerothOrder, *, history: int) -> None:
        self.method, self.size, self.history = method, size, history
        self.first, self.second = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        self.number = 0
        self.codes: list[Tensor] = []
        self.noisy = torch.zeros(0, size, dtype=torch.float64)

    def step(self, values: Tensor, slopes: Tensor, directions: Tensor) -> Tensor:
        """The next code, for slopes [estimates] along directions [estimates, size]."""
        gradient = estimate(slopes, directions, self.size - len(self.noisy))
        gradient = gradient - (gradient @ self.noisy.T) @ self.noisy
        self.number += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient.square()
        first, second = self.first / (1 - 0.9**self.number), self.second / (1 - 0.999**self.number)
        values = values - self.method.lr * first / (second.sqrt() + _STEADY)
        self.codes = [*self.codes[1 - self.history :], values]
        if self.number % self.history == 0:
            self.noisy = noisy_directions(torch.stack(self.codes), self.method.noise)
        return values


def estimate(slopes: Tensor, directions: Tensor, dimensions: int) -> Tensor:
    """sum_i slope_i z_i / (n sqrt((d + n - 1) / n)) [size]: the mean over n, scaled to keep its length in d dimensions.

    Without the root it has the gradient as its mean, and a squared length of (d + n + 1) / n of the gradient's.
    """
    count = len(slopes)
    return slopes @ directions / (count * math.sqrt(max(1, dimensions + count - 1) / count))


def noisy_directions(codes: Tensor, share: float) -> Tensor:
    """Orthonormal directions [k, size] that hold the last `share` of the variance of codes [n, size].

    Every coordinate is divided by its deviation first, as in the authors' code.
    """
    deviation = codes.std(0, unbiased=False)
    scaled = (codes - codes.mean(0)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    _, lengths, directions = torch.linalg.svd(scaled, full_matrices=False)
    variance = lengths.square()
    if float(variance.sum()) == 0.0:
        return directions[:0]
    kept = (variance.cumsum(0) / variance.sum()) > 1 - share
    number = int(kept.int().argmax()) + 1 if bool(kept.any()) else len(variance)
    rank = int((lengths > lengths[0] * 1e-10).sum())  # what has no variance at all is not of the history
    return directions[number:rank]


methods.register("zeroth-order", ZerothOrder)
