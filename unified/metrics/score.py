"""A number together with how it was measured, so that unlike numbers are never put in one column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unified.errors import UserError


@dataclass(frozen=True)
class Score:
    """One measured value.

    value: the number, in the metric's own unit.
    metric: what was measured, e.g. "clip-i", "lpips", "psnr".
    extractor: the network whose features were compared, with its crop if that matters, e.g. "avatars/clip",
        "clip-vit-b-32, centre crop 224"; "pixels" where no network is involved.
    averaging: over what the value is a mean, innermost first, e.g. "references > prompts > subjects".
    """

    value: float
    metric: str
    extractor: str
    averaging: str = ""

    @property
    def column(self) -> str:
        """The heading under which only comparable scores stand."""
        return f"{self.metric} ({self.extractor}{', mean over ' + self.averaging if self.averaging else ''})"

    def comparable_with(self, other: Score) -> bool:
        return (self.metric, self.extractor, self.averaging) == (
            other.metric,
            other.extractor,
            other.averaging,
        )


def mean_score(scores: Sequence[Score], over: str) -> Score:
    """The mean of comparable scores, marked as a further mean over `over`, e.g. "subjects".

    Raises UserError for no scores, or scores that differ in metric, extractor or averaging.
    """
    if not scores:
        raise UserError("the mean of no scores was asked for; give at least one")
    first = scores[0]
    for score in scores:
        if not score.comparable_with(first):
            raise UserError(
                f"scores of '{first.column}' and '{score.column}' were to be averaged; they measure "
                "different things, so average each kind by itself"
            )
    value = math.fsum(score.value for score in scores) / len(scores)
    return replace(first, value=value, averaging=f"{first.averaging} > {over}" if first.averaging else over)
