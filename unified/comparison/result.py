"""What a comparison found, run by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unified.comparison.scorers import METRICS, Metric, Scorers
from unified.contract.concept import Concept
from unified.metrics.bootstrap import Interval, mean_interval
from unified.metrics.score import Score


@dataclass(frozen=True)
class Cell:
    """One picture: run x prompt x seed.

    ask: number of the prompt. picture: [3,H,W] in 0..1, or None with the reason in `error`.
    scores: by metric. seen: what the attribute classifier reads of the requested attributes.
    """

    ask: int
    seed: int
    picture: Tensor | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_mebibytes: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class RunResult:
    """One run. `stages` is the concept's log: spaces, method, seconds, peak memory and losses of each stage.

    reproduced: [N,3,H,W], the references as the concept alone gives them, where it does; its scores beside it.
    error: why the run failed, in a sentence; what was reached before is kept.
    """

    title: str
    slug: str
    model: str
    family: str = ""
    recipe: str = ""
    cite: str = ""
    is_baseline: bool = False
    stages: Sequence[Mapping[str, Any]] = ()
    concept: Concept | None = None
    cells: Sequence[Cell] = ()
    reproduced: Tensor | None = None
    reproduced_scores: Mapping[str, float] = field(default_factory=dict)
    error: str = ""

    def of_prompt(self, ask: int, metric: str) -> float | None:
        """The metric's mean over the pictures of one prompt; None if none has it."""
        values = [cell.scores[metric] for cell in self.cells if cell.ask == ask and metric in cell.scores]
        return math.fsum(values) / len(values) if values else None

    def over_prompts(self, metric: str) -> list[float]:
        """The metric's means of the prompts that have it."""
        asks = sorted({cell.ask for cell in self.cells})
        return [value for ask in asks if (value := self.of_prompt(ask, metric)) is not None]

    def value(self, metric: str) -> float | None:
        """The run's value of a metric: for cells the mean over pictures, then over prompts."""
        if metric in self.reproduced_scores:
            return self.reproduced_scores[metric]
        means = self.over_prompts(metric)
        return math.fsum(means) / len(means) if means else None

    def interval(self, metric: str) -> Interval | None:
        """95 % bootstrap interval of the mean over prompts; None for fewer than two, or one that is not finite."""
        values = self.over_prompts(metric)
        return mean_interval(values) if len(values) > 1 and all(map(math.isfinite, values)) else None

    def scores(self, scorers: Scorers) -> dict[str, Score]:
        """Every value with its extractor and averaging."""
        found = {}
        for metric in METRICS:
            value = self.value(metric.key)
            if value is not None:
                found[metric.key] = Score(value, metric.key, scorers.extractor(metric.key), metric.over)
        return found

    @property
    def inversion_seconds(self) -> float:
        return math.fsum(float(stage["seconds"]) for stage in self.stages)

    @property
    def picture_seconds(self) -> float | None:
        """Mean seconds of generating one picture."""
        seconds = [cell.seconds for cell in self.cells if cell.picture is not None]
        return math.fsum(seconds) / len(seconds) if seconds else None

    @property
    def peak_mebibytes(self) -> float | None:
        """Most memory in use in any stage or generation, in MiB: of the GPU if there is one, else the process."""
        peaks = [float(stage["peak_mebibytes"]) for stage in self.stages]
        peaks += [cell.peak_mebibytes for cell in self.cells if cell.picture is not None]
        return max(peaks, default=None)


def present_metrics(runs: Sequence[RunResult]) -> list[Metric]:
    """The metrics that at least one run has a value of."""
    return [metric for metric in METRICS if any(run.value(metric.key) is not None for run in runs)]
