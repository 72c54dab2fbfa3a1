"""Confidence intervals over subjects: how far a mean would move had other subjects been drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unified.errors import UserError


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds within which it lies with the stated confidence."""

    mean: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of the mean of one value per subject.

    Whole subjects are drawn, as prompts and samples of one subject are not independent. Needs at least 2
    subjects; with few (below about 10) the interval is too narrow. The same seed gives the same interval.
    """
    if len(values) < 2:
        raise UserError(f"an interval over subjects needs at least 2 of them; {len(values)} was given")
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence} was asked for; expected a share between 0 and 1")
    samples = torch.tensor(list(values), dtype=torch.float64)
    if not torch.isfinite(samples).all():
        raise UserError("a subject's value is not a finite number; leave that subject out and say so")
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(samples), (resamples, len(samples)), generator=rng)
    means = samples[drawn].mean(dim=1)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(samples.mean()), low, high, confidence)


def difference_interval(
    a: Sequence[float],
    b: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(a - b), paired: a[i] and b[i] are two methods on one subject.

    Two methods differ at this confidence if 0 lies outside.
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} and {len(b)} values were given; a paired difference needs the same subjects")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
