"""CLIP's embedding of a picture, for methods that tune with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.diffusion.vision import Vision, digest_of, load_vision
from unified.contract.abilities import Speaks
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.picture_encoders import embedded_folder, picture_encoders

NAME = "clip"
#: By the width of the text: the CLIP whose text encoder the model reads, so that both stand in one space.
HUB: Mapping[int, str] = {768: "openai/clip-vit-large-patch14", 1024: "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}


@dataclass(frozen=True)
class Clip:
    """A CLIP picture encoder."""

    vision: Vision

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(self.vision.module.state_dict())

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Pictures [N,3,H,W] in 0..1 -> embeddings [N, width] in the space that CLIP's texts share, not normalised."""
        last = self.vision.layers(images)[-1][:, 0]
        module: Any = self.vision.module
        found: Tensor = module.visual_projection(module.vision_model.post_layernorm(last))
        return found


def load(backbone: Backbone, source: str) -> Clip:
    """The CLIP in the folder `source`, the embedded one, or the one that the backbone's text encoder belongs to."""
    if source:
        return Clip(load_vision(Path(source).expanduser()))
    folder = embedded_folder(backbone, NAME)
    if folder is not None:
        return Clip(load_vision(folder))
    widths = set(backbone.text_outputs().values()) if isinstance(backbone, Speaks) else set()
    known = [HUB[width] for width in sorted(widths) if width in HUB]
    if not known:
        raise UserError(f"No CLIP is known for {backbone.id}: give the folder of one as the space's weights.")
    return Clip(load_vision(_from_hub(known[0])))


def _from_hub(id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(id, allow_patterns=["*.json", "model.safetensors"]))
    except Exception as error:
        # The hub client raises a family of errors (absent, gated, no network); all mean the same to the user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{id!r} could not be had from the model hub ({reason}): give the folder of a downloaded CLIP as the"
            " space's weights."
        ) from error


picture_encoders.register(NAME, load)
