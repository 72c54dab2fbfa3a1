"""Stable Diffusion 1.x and 2.x over a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from backbones.diffusion.clip_texts import clip_component
from backbones.diffusion.texts import output_of
from backbones.diffusion.unet import UNetDiffusion
from unified.contract.abilities import TextComponent
from unified.contract.backbone import backbones
from unified.contract.view import View


class StableDiffusion(UNetDiffusion):
    """UNet over KL latents with one CLIP text encoder; epsilon and v-prediction (Rombach et al. 2022)."""

    name: ClassVar[str] = "stable-diffusion"

    def __init__(self, id: str, pipeline: Any) -> None:
        super().__init__(id, pipeline, {"text_encoder": pipeline.text_encoder})
        self.tokenizer = pipeline.tokenizer

    def texts(self) -> Sequence[TextComponent]:
        return [clip_component("text_encoder", self.components["text_encoder"], self.tokenizer)]

    def encoded(self, view: View, component: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return output_of(view.component(component), ids), None


backbones.register(StableDiffusion.name, StableDiffusion)
