"""Settings of drawing scale by scale, as users give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from backbones.autoregressive.choosing import SamplingSettings
from backbones.autoregressive.token_sampling import Grid, on_grid
from unified.contract.backbone import Sampling
from unified.errors import UserError


@dataclass(frozen=True)
class VarSampling(Sampling):
    """See `SamplingSettings` and `draw_scales`; temperature and guidance are those that avatars/var draws best with.

    guidance_from, guidance_until: in scales, 0 coarsest, 1 finest. The finest is not guided: its details follow from
        the coarser ones, tear where they are pushed, and cost a third of the time.

    redraw: rows of numbers over the picture; in every scale the bound tokens are drawn anew where its average is
        above one half, and kept elsewhere (VAR, section 5.4).
    gate: rows of numbers in 0..1 over the picture: how much each place sees of bound keys and values.
    gate_scales: how much each scale sees of them, one number a scale, coarsest first; with `gate` the product.
    """

    temperature: float = 0.5
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 5.0
    guidance_from: float = 0.0
    guidance_until: float = 0.9
    redraw: Grid | None = None
    gate: Grid | None = None
    gate_scales: tuple[float, ...] | None = None

    def drawing(self) -> SamplingSettings:
        """The part that choosing tokens reads."""
        names = {field.name for field in fields(SamplingSettings)}
        return SamplingSettings(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in names})

    def seen(self, sides: Sequence[int]) -> Tensor | None:
        """How much each token of a picture sees of bound keys and values, [tokens]; None: fully.

        Raises UserError for numbers below 0, or not one for each scale.
        """
        if self.gate is None and self.gate_scales is None:
            return None
        scales = self.gate_scales or (1.0,) * len(sides)
        if len(scales) != len(sides) or min(scales) < 0:
            raise UserError(
                f"gate_scales={list(scales)} was given; this model has {len(sides)} scales: give as many numbers of 0"
                " or more."
            )
        places = self.gate or ((1.0,),)
        maps = [on_grid(places, (side, side), what="gate").flatten() for side in sides]
        found = torch.cat([scale * part for scale, part in zip(scales, maps, strict=True)])
        if float(found.min()) < 0:
            raise UserError(f"gate={self.gate} has numbers below 0: how much a place sees is 0 or more.")
        return found
