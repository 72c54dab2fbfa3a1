"""The network with classifier-free guidance, at any level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unified.contract.abilities import Denoises, Flows, Level
from unified.contract.view import View

Condition = Mapping[str, Tensor]


class Guided:
    """negative + guidance (positive - negative) (Ho and Salimans 2022, equation 6).

    positive, negative: conditions of the rows; negative is None where guidance is 1 throughout.
    guidance: one weight for each row, [rows].
    """

    def __init__(
        self, backbone: Denoises, view: View, positive: Condition, negative: Condition | None, guidance: Sequence[float]
    ) -> None:
        self.backbone, self.view = backbone, view
        self.positive, self.negative = positive, negative
        self.guidance = list(guidance)

    def outputs(self, x: Tensor, level: Level) -> Tensor:
        """The network's raw output for x [rows, *latent], guided."""
        # Convolutions round by the layout of their input: an inversion and its sampling must agree to the last bit.
        x = x.clone(memory_format=torch.contiguous_format)
        time = torch.full((len(x),), level.time, dtype=torch.float32)
        if self.negative is None:
            return self.backbone.predict(self.view, x, time, self.positive)
        condition = joined(self.negative, self.positive)
        both = self.backbone.predict(self.view, torch.cat([x, x]), torch.cat([time, time]), condition)
        negative, positive = both.chunk(2)
        weight = torch.tensor(self.guidance, dtype=x.dtype).view(-1, *([1] * (x.ndim - 1)))
        return negative + weight * (positive - negative)

    def split(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """(x0, eps) at `level`."""
        return split_at(self.backbone, self.outputs(x, level), x, level)


def guided(
    backbone: Denoises, view: View, prompts: Sequence[str], guidance: float, *, negative_prompt: str = ""
) -> Guided:
    """The network under `prompts` (one a row), guided away from `negative_prompt` unless guidance is 1."""
    positive = backbone.condition(view, [view.carry(prompt) for prompt in prompts])
    negative = None
    if guidance != 1.0:
        negative = backbone.condition(view, [view.carry(negative_prompt)] * len(prompts))
    return Guided(backbone, view, positive, negative, [guidance] * len(prompts))


def split_at(backbone: Denoises, output: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """(x0, eps) that a raw output implies at `level`."""
    a, s = (torch.tensor(value, dtype=x.dtype) for value in (level.a, level.s))
    return backbone.split(output, x, a, s)


def joined(first: Condition, second: Condition) -> Condition:
    """The rows of both conditions, one after the other."""
    return {key: torch.cat([first[key], value]) for key, value in second.items()}


def middle(backbone: object, at: Level, to: Level) -> Level | None:
    """The level half-way in s, where the backbone has every level."""
    return backbone.level_at((at.s + to.s) / 2) if isinstance(backbone, Flows) else None
