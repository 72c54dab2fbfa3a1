"""Edits by WarpedGANSpace (Tzelepis et al. 2021): along the gradient of a learned warp, which bends with w."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from editing.latent.reconstructor import Warped, follow
from editing.paths import Here, Shift, path_models
from unified.errors import UserError

KIND = "warpedganspace"
_STEP = 0.1  # of the length of strength 1


@dataclass(frozen=True, eq=False)
class WarpPaths:
    """Paths "path-0", ...: strength goes along them by lengths [K]. All layers take the step of their mean w."""

    warps: Warped
    lengths: Tensor

    kind: ClassVar[str] = KIND

    def settings(self) -> dict[str, Any]:
        ways, dipoles = self.warps.places.shape[:2]
        return {"ways": ways, "dipoles": dipoles, "width": self.warps.width}

    def tensors(self) -> dict[str, Tensor]:
        return {**{f"warps.{name}": value for name, value in self.warps.state_dict().items()}, "lengths": self.lengths}

    @staticmethod
    def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WarpPaths:
        """Raises KeyError or RuntimeError for tensors that do not fit."""
        warps = Warped(settings["ways"], settings["width"], dipoles=settings["dipoles"])
        warps.load_state_dict({k.removeprefix("warps."): v for k, v in tensors.items() if k.startswith("warps.")})
        return WarpPaths(warps.requires_grad_(False), tensors["lengths"])

    @torch.no_grad()
    def shift(self, here: Here, name: str, strength: float, keep: Sequence[str]) -> Shift:
        if keep:
            raise UserError(f"{KIND}:{name} cannot leave other paths alone: it knows no attributes. Leave '|' out.")
        way = int(name.rpartition("-")[2])
        length = float(self.lengths[way])
        w = here.styles.mean(1).to(self.lengths.dtype)
        end = follow(self.warps, w, way, strength * length, longest=_STEP * length)
        return Shift(styles=(end - w).unsqueeze(1).expand(here.styles.shape).to(here.styles.dtype))


path_models.register(KIND, WarpPaths.read)
