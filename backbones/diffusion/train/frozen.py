"""The finished models that picture encoders are trained on: all frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from backbones.diffusion.ip_adapter import DEVIATION, MEAN
from backbones.diffusion.train import clip as clip_training
from backbones.diffusion.vision import Vision, load_vision
from unified.errors import UserError


@dataclass(frozen=True)
class Frozen:
    """pipeline: a StableDiffusionPipeline. vision: CLIP's picture encoder, for pictures normalised as CLIP's own."""

    pipeline: Any
    vision: Any

    @property
    def text_width(self) -> int:
        return int(self.pipeline.unet.config.cross_attention_dim)

    def text(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's outputs [N, tokens, width]."""
        ids = clip_training.tokenize(self.pipeline.tokenizer, texts, full=True)
        with torch.no_grad():
            output: Tensor = self.pipeline.text_encoder(input_ids=ids.to(self.pipeline.device))[0]
        return output

    def to(self, device: torch.device) -> Frozen:
        return Frozen(self.pipeline.to(device), self.vision.to(device))


def load_frozen(*, base: Path, clip: Path) -> Frozen:
    """Read the folders of avatars/stable-diffusion and avatars/clip. Raises UserError if one is not built."""
    for folder, mark, name in ((base, "model_index.json", "stable-diffusion"), (clip, "config.json", "clip")):
        if not (folder / mark).exists():
            raise UserError(f"{folder} holds no finished model; build avatars/{name} first.")
    pipeline = StableDiffusionPipeline.from_pretrained(
        base, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        module.eval().requires_grad_(False)
    return Frozen(pipeline, renormalised(load_vision(clip)))


@torch.no_grad()
def renormalised(vision: Vision) -> Any:
    """The picture encoder, changed to take CLIP's own normalisation; it gives what it gave.

    With x = (p - m) / d as it was and y = (p - M) / D as CLIP has it, x = (D / d) y + (M - m) / d: the factor goes
    into the patches' kernel, and the constant, which every patch sees alike, into the patches' positions.
    """
    embeddings = vision.module.get_submodule("vision_model.embeddings")
    kernel = embeddings.patch_embedding.weight
    mean, deviation = torch.tensor(vision.mean), torch.tensor(vision.deviation)
    constant = (torch.tensor(MEAN) - mean) / deviation
    shift = kernel.sum((2, 3)) @ constant.to(kernel.dtype)
    embeddings.position_embedding.weight[1:] += shift
    kernel.mul_((torch.tensor(DEVIATION) / deviation).to(kernel.dtype).view(1, 3, 1, 1))
    return vision.module
