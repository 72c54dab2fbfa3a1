"""Settings of the samplers, as users give them, and numbers over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.choosing import SamplingSettings
from unified.contract.backbone import Sampling
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig

Grid = Sequence[Sequence[float]]


@dataclass(frozen=True)
class TokenSampling(Sampling):
    """See `SamplingSettings`.

    references: pictures put in the context when visual tokens are bound.
    redraw: rows of numbers over the picture; where they are above one half the bound visual tokens are drawn
        anew, elsewhere they are kept. None: everything is drawn.
    gate: rows of numbers in 0..1 over the picture: how much each place sees of bound keys and values.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    references: int = 1
    redraw: Grid | None = None
    gate: Grid | None = None

    def drawing(self) -> SamplingSettings:
        """The part that the sampling loop reads."""
        names = {field.name for field in fields(SamplingSettings)}
        return SamplingSettings(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in names})


def stored_sampling(config: GenerationConfig | None, default: TokenSampling) -> TokenSampling:
    """The default with what a checkpoint's `generation_config.json` says of how it wants to be sampled."""
    names = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "guidance_scale": "guidance"}
    said = {ours: getattr(config, theirs, None) for theirs, ours in names.items()}
    return replace(default, **{name: value for name, value in said.items() if value is not None})


def on_grid(values: Grid, size: tuple[int, int], *, what: str) -> Tensor:
    """Rows of numbers, averaged or repeated to [height,width]. Raises UserError for what is no grid."""
    try:
        grid = torch.tensor([list(row) for row in values], dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} takes rows of numbers of one length, such as [[0, 1], [0, 1]]; {error}.") from error
    if grid.ndim != 2 or not grid.numel():
        raise UserError(f"{what} takes rows of numbers of one length; it was given shape {tuple(grid.shape)}.")
    return functional.interpolate(grid[None, None], size=size, mode="area")[0, 0]
