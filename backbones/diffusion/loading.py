"""Diffusers pipelines from folders."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.diffusion.flux import Flux
from backbones.diffusion.stable_diffusion import StableDiffusion
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.loading import Loader, loaders

INDEX = "model_index.json"
# Which of our backbones takes which diffusers pipeline.
PIPELINES = {"StableDiffusionPipeline": StableDiffusion, "FluxPipeline": Flux}


def _class_name(path: Path) -> str:
    try:
        return str(json.loads((path / INDEX).read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path / INDEX} is not the index of a diffusers pipeline ({error}).") from error


def load_folder(path: Path, id: str) -> Backbone:
    """A pipeline folder as diffusers writes it, read in float32 from safetensors only."""
    import diffusers
    import torch

    name = _class_name(path)
    if name not in PIPELINES:
        raise UserError(f"{id} is a {name}; supported are {', '.join(PIPELINES)}.")
    pipeline = getattr(diffusers, name).from_pretrained(
        path, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
    )
    return PIPELINES[name](id, pipeline)


loaders.register(
    "diffusers folder",
    Loader(
        "diffusers folder",
        lambda path: path.is_dir() and (path / INDEX).is_file(),
        load_folder,
        hub=("*.json", "*.txt", "*.safetensors", "*.model"),
    ),
)
