"""Low-rank changes of the one block that draws what is shown, or the one that draws how (Frenkel et al. 2024)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from inversion.spaces.parameter import LoRA
from unified.contract.abilities import SeparatesStyle, Tunable
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import spaces
from unified.contract.view import View


@dataclass(frozen=True)
class ContentLoRA(LoRA):
    """W + B A in the block that decides what is shown (section 4.1)."""

    name: ClassVar[str] = "content-lora"
    needs: ClassVar[tuple[type, ...]] = (Tunable, SeparatesStyle)
    block: ClassVar[int] = 0

    rank: int = 64

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, SeparatesStyle)
        path = backbone.content_and_style()[self.block]
        return LoRA.initial(replace(self, paths=rf"^{re.escape(path)}\."), view, reference, rng=rng)


@dataclass(frozen=True)
class StyleLoRA(ContentLoRA):
    """W + B A in the block that decides in which style and colours it is shown."""

    name: ClassVar[str] = "style-lora"
    block: ClassVar[int] = 1


spaces.register("content-lora", ContentLoRA)
spaces.register("style-lora", StyleLoRA)
