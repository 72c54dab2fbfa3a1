"""Stable Diffusion XL over a diffusers pipeline (Podell et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from backbones.diffusion.backbone import Condition
from backbones.diffusion.clip_texts import clip_component, penultimate, wordless
from backbones.diffusion.unet import UNetDiffusion
from unified.contract.abilities import TextComponent
from unified.contract.backbone import backbones
from unified.contract.view import View
from unified.errors import UserError


class StableDiffusionXL(UNetDiffusion):
    """Two CLIP text encoders side by side, the second one's pooled vector, and the picture's size (section 2.2).

    Sizes are always "made at this size, not cropped". Where the model was trained with zeros for empty captions,
    an empty prompt is zeros, in training and in sampling; where only layers differ in what they read, the pooled
    vector is the mean of theirs. The base model; the refiner has no first text encoder and is refused.
    """

    name: ClassVar[str] = "stable-diffusion-xl"

    def __init__(self, id: str, pipeline: Any) -> None:
        if pipeline.text_encoder is None or pipeline.config.get("requires_aesthetics_score", False):
            raise UserError(f"{id} is a refiner, which cannot draw by itself: load the base model.")
        encoders = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
        super().__init__(id, pipeline, encoders)
        self.tokenizers = {"text_encoder": pipeline.tokenizer, "text_encoder_2": pipeline.tokenizer_2}
        self.zeros_for_empty = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))

    def texts(self) -> Sequence[TextComponent]:
        return [clip_component(name, self.components[name], own) for name, own in self.tokenizers.items()]

    def encoded(self, view: View, component: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden, pooled = penultimate(view.component(component), ids)
        if not self.zeros_for_empty:
            return hidden, pooled
        empty = wordless(ids, self.tokenizers[component])
        hidden = hidden.masked_fill(empty[:, None, None], 0)
        return hidden, None if pooled is None else pooled.masked_fill(empty[:, None], 0)

    def content_and_style(self) -> tuple[str, str]:
        """As Frenkel et al. 2024, section 4.1, measured (and for style Wang et al. 2024, InstantStyle)."""
        return "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"

    def added(self, condition: Condition, latents: Tensor) -> Mapping[str, Any]:
        height, width = (side * self.vae_scale for side in latents.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype)
        return {
            "added_cond_kwargs": {"text_embeds": condition["pooled"], "time_ids": sizes.expand(len(latents), -1)},
        }


backbones.register(StableDiffusionXL.name, StableDiffusionXL)
