"""CMA-ES: search without gradients (Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772).

All names and numbers of equations are the tutorial's; the algorithm is that of its figure 6 with the default
parameters of its table 1 (weights of all samples, also negative ones).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Defaults:
    """Table 1 for `size` dimensions and `population` samples a generation.

    weights [population], best sample first; they sum to 1 over the positive ones.
    """

    size: int
    population: int
    parents: int
    weights: Tensor
    selected: float  # mu_eff
    step_path: float  # c_sigma
    damping: float  # d_sigma
    path: float  # c_c
    rank_one: float  # c_1
    rank_many: float  # c_mu

    @staticmethod
    def of(size: int, population: int | None = None) -> Defaults:
        count = population or 4 + math.floor(3 * math.log(size))
        parents = count // 2
        raw = math.log((count + 1) / 2) - torch.arange(1, count + 1, dtype=torch.float64).log()  # eq. 49
        positive, negative = raw[:parents], raw[parents:]
        selected = float(positive.sum() ** 2 / positive.square().sum())
        selected_negative = float(negative.sum() ** 2 / negative.square().sum()) if len(negative) else 0.0
        step_path = (selected + 2) / (size + selected + 5)
        damping = 1 + 2 * max(0.0, math.sqrt((selected - 1) / (size + 1)) - 1) + step_path
        path = (4 + selected / size) / (size + 4 + 2 * selected / size)
        rank_one = 2 / ((size + 1.3) ** 2 + selected)
        rank_many = min(1 - rank_one, 2 * (0.25 + selected + 1 / selected - 2) / ((size + 2) ** 2 + selected))
        least = min(
            1 + rank_one / rank_many,
            1 + 2 * selected_negative / (selected + 2),
            (1 - rank_one - rank_many) / (size * rank_many),
        )  # eqs. 50 to 52
        weights = torch.where(raw >= 0, raw / raw[raw > 0].sum(), least * raw / raw[raw < 0].abs().sum())
        return Defaults(size, count, parents, weights, selected, step_path, damping, path, rank_one, rank_many)


class CMAES:
    """The state of a search: ask for samples, tell their losses (smaller is better). All in float64.

    mean [size]: where it begins. sigma: standard deviation of the first samples along every axis.
    """

    def __init__(self, mean: Tensor, sigma: float, *, population: int | None = None) -> None:
        self.settings = Defaults.of(len(mean), population)
        self.mean, self.sigma = mean.double().clone(), float(sigma)
        size = len(mean)
        self.covariance = torch.eye(size, dtype=torch.float64)
        self.step_path, self.path = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        self.generation = 0
        # E|N(0, I)|
        self.expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
        self._decomposed = 0
        self._axes, self._lengths = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)

    @property
    def population(self) -> int:
        return self.settings.population

    def ask(self, normal: Tensor) -> Tensor:
        """The samples x = m + sigma B D z [population, size] for standard normal z of that shape (eqs. 38 to 40)."""
        self._decompose()
        return self.mean + self.sigma * (normal.double() * self._lengths) @ self._axes.T

    def tell(self, samples: Tensor, losses: Tensor) -> None:
        """Move mean, step size and covariance by the ranking of the samples' losses [population]."""
        own, size = self.settings, self.settings.size
        order = losses.argsort()
        y = (samples.double()[order] - self.mean) / self.sigma
        step = own.weights[: own.parents] @ y[: own.parents]  # eq. 41
        self.mean = self.mean + self.sigma * step  # eq. 42
        white = self._whitened(step)
        rate = own.step_path
        self.step_path = (1 - rate) * self.step_path + math.sqrt(rate * (2 - rate) * own.selected) * white  # eq. 43
        length = float(self.step_path.norm())
        self.sigma *= math.exp(rate / own.damping * (length / self.expected - 1))  # eq. 44
        self.generation += 1
        bound = (1.4 + 2 / (size + 1)) * self.expected
        steady = length / math.sqrt(1 - (1 - rate) ** (2 * self.generation)) < bound  # h_sigma
        rate = own.path
        self.path = (1 - rate) * self.path
        if steady:
            self.path = self.path + math.sqrt(rate * (2 - rate) * own.selected) * step  # eq. 45
        lengths = self._whitened(y).square().sum(1).clamp(min=1e-300)
        weights = torch.where(own.weights >= 0, own.weights, own.weights * size / lengths)  # eq. 46
        lost = 0.0 if steady else own.path * (2 - own.path)
        kept = 1 + own.rank_one * lost - own.rank_one - own.rank_many * float(own.weights.sum())
        self.covariance = (
            kept * self.covariance
            + own.rank_one * torch.outer(self.path, self.path)
            + own.rank_many * (y.T * weights) @ y
        )  # eq. 47

    def _whitened(self, y: Tensor) -> Tensor:
        """C^(-1/2) y for rows y."""
        return ((y @ self._axes) / self._lengths) @ self._axes.T

    def _decompose(self) -> None:
        """B and D of C = B D^2 B^T, anew every few generations (section B.2: lazily, at no loss)."""
        own = self.settings
        every = max(1, math.floor(1 / (10 * own.size * (own.rank_one + own.rank_many))))
        if self.generation < self._decomposed + every and self.generation > 0:
            return
        self._decomposed = self.generation
        self.covariance = (self.covariance + self.covariance.T) / 2
        values, self._axes = torch.linalg.eigh(self.covariance)
        self._lengths = values.clamp(min=1e-20).sqrt()
