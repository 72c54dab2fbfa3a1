"""Diffusers pipelines from folders, from single files and from memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from backbones.diffusion.backbone import DiffusionBackbone
from backbones.diffusion.compact_folder import networks_of
from backbones.diffusion.flux import Flux
from backbones.diffusion.hub import INDEX, UNUSED, wanted
from backbones.diffusion.settings import PipelineSettings, offload, place, unquantised
from backbones.diffusion.stable_diffusion import StableDiffusion
from backbones.diffusion.stable_diffusion_3 import StableDiffusion3
from backbones.diffusion.stable_diffusion_xl import StableDiffusionXL
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.loading import Loader, held, loaders

PLAIN = PipelineSettings()
# Which of our backbones takes which diffusers pipeline.
PIPELINES: Mapping[str, type[DiffusionBackbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
# The pipeline for each kind of checkpoint that diffusers tells apart; others (inpainting, refiners) have none.
_SINGLE_FILES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
# By which a file is told from others without asking diffusers: of a UNet or SD 3 in a whole checkpoint, and of FLUX.
_MARKS = ("model.diffusion_model.", "double_blocks.0.", "joint_blocks.0.")


def _index(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((path / INDEX).read_text(encoding="utf-8"))
        return found | {"_class_name": str(found["_class_name"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / INDEX} is not the index of a diffusers pipeline ({error}).") from error


def _supported(name: str, id: str) -> type[DiffusionBackbone]:
    if name not in PIPELINES:
        raise UserError(f"{id} is a {name}; supported are {', '.join(PIPELINES)}.")
    return PIPELINES[name]


def load_folder(path: Path, id: str, settings: PipelineSettings = PLAIN) -> Backbone:
    """A pipeline folder as diffusers writes it, or a compact one."""
    pipeline = read_pipeline(path, id, settings)
    return _over(PIPELINES[type(pipeline).__name__], id, pipeline, settings)


def read_pipeline(path: Path, id: str, settings: PipelineSettings = PLAIN) -> Any:
    """The diffusers pipeline of a folder, from safetensors only; parts that are not used here are left out.

    `read_pipeline(path, id).save_pretrained(folder)` makes a plain folder of a compact one.
    """
    import diffusers

    index = _index(path)
    name = index["_class_name"]
    _supported(name, id)
    unused: dict[str, Any] = {part: None for part in UNUSED if part in index}
    if "safety_checker" in unused:
        unused["requires_safety_checker"] = False
    networks = networks_of(path)
    if settings.torch_dtype != torch.float32:
        networks = {part: network.to(settings.torch_dtype) for part, network in networks.items()}
    if networks and settings.quantization is not None:
        raise UserError(f"{id} is stored in a byte a weight, which diffusers does not read: leave quantization out.")
    load = getattr(diffusers, name).from_pretrained
    arguments = {"local_files_only": True, "use_safetensors": True} | unused | settings.arguments() | networks
    if settings.quantization is None:
        return load(path, **arguments)
    try:
        return load(path, **arguments)
    except (ImportError, RuntimeError, ValueError) as error:
        raise unquantised(id, settings, error) from error


def _over(cls: type[DiffusionBackbone], id: str, pipeline: Any, settings: PipelineSettings) -> Backbone:
    backbone = cls(id, pipeline)
    place(id, backbone.components)
    if settings.offload:
        offload(backbone, settings.offload)
    return backbone


def adopt(pipeline: object) -> Backbone | None:
    """The backbone over a diffusers pipeline that is in memory already; None for other objects.

    Its networks are used as they are, not copied: in their precision and, where diffusers quantised them, so
    (then words and noises can be inverted; what changes weights reaches only those that are not quantised).
    """
    from diffusers import DiffusionPipeline

    if not isinstance(pipeline, DiffusionPipeline):
        return None
    name = type(pipeline).__name__
    id = str(pipeline.config.get("_name_or_path") or name)
    return _over(_supported(name, name), id, pipeline, PLAIN)


def _names(path: Path) -> dict[str, Any]:
    """What stands in a .safetensors file: name -> something with a shape. Empty for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {n: SimpleNamespace(shape=tuple(file.get_slice(n).get_shape())) for n in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}


def recognises_file(path: Path) -> bool:
    """Whether this is a whole checkpoint in one .safetensors file, as the models' authors publish them."""
    return path.is_file() and path.suffix == ".safetensors" and any(n.startswith(_MARKS) for n in _names(path))


def load_file(path: Path, id: str, settings: PipelineSettings = PLAIN) -> Backbone:
    """A whole checkpoint in one file.

    Its settings and tokenizers come from a folder of the same name beside it (model.safetensors, model/) that
    diffusers' index lies in, else from the model hub (of the model that its tensors are those of).
    """
    import diffusers
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    if settings.quantization is not None:
        raise UserError(f"{path} is one file, whose weights are not quantised on loading: load a pipeline's folder.")
    beside = path.with_suffix("")
    arguments = settings.arguments()
    if (beside / INDEX).is_file():
        name = _index(beside)["_class_name"]
        arguments |= {"config": str(beside), "local_files_only": True}
    else:
        sort = infer_diffusers_model_type(_names(path))
        name = _SINGLE_FILES.get(sort, f"checkpoint of the kind {sort!r}")
    cls = _supported(name, id)
    try:
        pipeline = getattr(diffusers, name).from_single_file(str(path), **arguments)
    except Exception as error:
        # What is missing (tokenizers, a text encoder, the network) shows in errors of many kinds.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} could not be loaded as a {name} ({reason}). Put the pipeline's folder, without weights, beside it:"
            f" {beside / INDEX} and so on; or load the whole pipeline from a folder."
        ) from error
    return _over(cls, id, pipeline, settings)


loaders.register(
    "diffusers folder",
    Loader(
        "diffusers folder",
        lambda path: path.is_dir() and (path / INDEX).is_file(),
        load_folder,
        wanted=wanted,
        settings=PipelineSettings,
    ),
)
loaders.register(
    "diffusion checkpoint",
    Loader("diffusion checkpoint", recognises_file, load_file, settings=PipelineSettings),
)
held.register("diffusers pipeline", adopt)
