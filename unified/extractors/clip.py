"""Pictures and texts in one space: a CLIPModel folder, the embedded one or any other.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError
from unified.zoo.registry import WEIGHTS

EMBEDDED = "avatars/clip"
# Of the released models, for folders that do not say.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared: side in pixels, mean and deviation of each channel, whether cut to a square.

    crop: the shorter side is scaled to `size` and the middle is cut out; else both sides are scaled.
    """

    size: int
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION
    crop: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in 0..1 -> [N,3,size,size], normalised; differentiable."""
        height, width = images.shape[-2:]
        shape = (self.size, self.size)
        if self.crop and height != width:
            # Rounded down, and the cut below to the nearest, as transformers does.
            short = min(height, width)
            shape = (self.size * height // short, self.size * width // short)
        if shape != (height, width):
            images = functional.interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False)
            images = images.clamp(0, 1)  # bicubic overshoots
        top, left = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        images = images[..., top : top + self.size, left : left + self.size]
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        return (images - mean) / images.new_tensor(self.deviation).view(1, 3, 1, 1)


class ClipScorer:
    """Features of pictures and texts, unit vectors whose dot products say how well they fit.

    name: what reports call it. model: a transformers CLIPModel, frozen. tokenizer: its CLIPTokenizer.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, preparation: Preparation) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preparation = preparation

    def image_features(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in 0..1 -> unit [N,D], differentiable. UserError for other shapes."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"CLIP was given {images.dtype} of shape {tuple(images.shape)};"
                " give float pictures [N, 3, height, width] in 0..1."
            )
        pixels = self.preparation(images.to(self._dtype))
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return functional.normalize(self.model.visual_projection(pooled), dim=1)

    def image_tokens(self, images: Tensor, *, layer: int | None = None) -> Tensor:
        """[N,3,H,W] in 0..1 -> [N, patches, width] as they leave `layer` layers (1: the first); differentiable.

        layer: None: after a quarter of the layers. The token of the whole picture is left out. UserError for a layer
        that is not there.
        """
        depth = int(self.model.config.vision_config.num_hidden_layers)
        chosen = max(1, round(depth / 4)) if layer is None else layer
        if not 1 <= chosen <= depth:
            raise UserError(f"CLIP was asked for tokens after layer {chosen}; {self.name} has 1 to {depth}.")
        pixels = self.preparation(images.to(self._dtype))
        states = self.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        tokens: Tensor = states[chosen][:, 1:]
        return tokens

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit [len(texts),D]; what is longer than the model reads is cut."""
        if not texts:
            raise UserError("CLIP was given no text; give at least one.")
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return functional.normalize(self.model.text_projection(pooled), dim=1)

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines [N, len(texts)] in -1..1 of pictures [N,3,H,W] and texts."""
        return self.image_features(images) @ self.text_features(texts).T

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.visual_projection.weight.dtype
        return dtype


def present(folder: Path | None = None) -> bool:
    """Whether there is a model to load."""
    return any((folder or WEIGHTS / "clip").glob("*.safetensors"))


def load(folder: str | Path | None = None) -> ClipScorer:
    """The model of a folder as `CLIPModel.save_pretrained` writes it, in fp32; None: the embedded one.

    Raises UserError if the folder holds none or a part of it is missing or damaged.
    """
    embedded = folder is None
    path = WEIGHTS / "clip" if folder is None else Path(folder)
    if not present(path):
        raise UserError(
            f"The embedded model {EMBEDDED} has no weights in this installation: build it with"
            f" `unified zoo build {EMBEDDED}`."
            if embedded
            else f"{path} holds no CLIP model: give one of config.json, model.safetensors and a tokenizer."
        )
    from transformers import CLIPModel, CLIPTokenizer

    try:
        with _quiet():
            model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        preparation = _preparation(path, model.config.vision_config.image_size)
    except Exception as error:
        # transformers raises many sorts for missing, damaged or unfitting files; all mean the same here.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The CLIP model in {path} cannot be loaded ({reason}): fetch or build it again.") from error
    return ClipScorer(EMBEDDED if embedded else _name(path), model, tokenizer, preparation)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar that transformers shows for the fraction of a second that loading takes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _preparation(folder: Path, size: int) -> Preparation:
    """What preprocessor_config.json says, or the released models' values."""
    path = folder / "preprocessor_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Preparation(
        size=size,
        mean=tuple(config.get("image_mean") or _MEAN),
        deviation=tuple(config.get("image_std") or _DEVIATION),
        crop=bool(config.get("do_center_crop", True)),
    )


def _name(folder: Path) -> str:
    """The folder's own id if its config.json has one, else the folder's name."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder.name
    return str(config.get("_name_or_path") or folder.resolve().name)
