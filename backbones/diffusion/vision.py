"""CLIP's picture encoder, and folders of networks that read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from unified.compact import unpacked
from unified.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Vision:
    """module: a CLIPVisionModelWithProjection. mean, deviation: of its inputs, by colour."""

    module: Any
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @torch.no_grad()
    def layers(self, images: Tensor) -> tuple[Tensor, ...]:
        """The hidden states [N, 1 + patches, width] of every layer, its input first; images in 0..1."""
        side = self.module.config.image_size
        if images.shape[-1] != side:
            images = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(v, dtype=images.dtype).view(1, 3, 1, 1) for v in (self.mean, self.deviation))
        pixels = ((images - mean) / deviation).to(self.module.dtype)
        found: tuple[Tensor, ...] = self.module(pixels, output_hidden_states=True).hidden_states
        return found


def load_vision(folder: Path) -> Vision:
    """The picture encoder of a CLIP folder. Raises UserError if there is none."""
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    if not (folder / CONFIG).is_file():
        raise UserError(f"There is no CLIP in {folder}: build avatars/clip first, or put the encoder's own there.")
    kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    if kind == "clip":  # the whole of it is read, as leaving half of a file unread is reported at length
        both = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        module = CLIPVisionModelWithProjection(both.config.vision_config)
        module.vision_model, module.visual_projection = both.vision_model, both.visual_projection
    else:
        module = CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    preprocessor = folder / "preprocessor_config.json"
    values = json.loads(preprocessor.read_text(encoding="utf-8")) if preprocessor.is_file() else {}
    mean = tuple(values.get("image_mean", (0.48145466, 0.4578275, 0.40821073)))
    deviation = tuple(values.get("image_std", (0.26862954, 0.26130258, 0.27577711)))
    return Vision(module.eval().requires_grad_(False), mean, deviation)


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The configuration of an encoder's folder. Raises UserError if it is of another kind."""
    try:
        values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"There is no encoder in {folder} ({error}): give the folder that a training wrote.") from error
    if values.get("kind") != kind:
        raise UserError(f"{folder} holds an encoder of kind {values.get('kind')!r}; {kind!r} is wanted.")
    return values


def read_weights(folder: Path, network: nn.Module, id: str) -> nn.Module:
    """Load the folder's weights, all of them. Raises UserError if they are for another model than `id`."""
    try:
        network.load_state_dict(unpacked(load_file(folder / WEIGHTS)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"The encoder in {folder} does not fit {id} ({reason}): it was trained for another.") from error
    return network.eval().requires_grad_(False)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
