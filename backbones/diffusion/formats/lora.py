"""LoRA files of diffusers, peft and kohya.

All hold a pair of matrices for each changed module and differ in the names. alpha / rank is multiplied into
the upper matrix on the way in and out, so that what is applied is the same whatever a reader makes of alpha.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from backbones.diffusion.formats import kohya
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.errors import UserError
from unified.exchange import Exchange, Foreign, exchanges, refuse_rest

_SPACE = "lora"
#: How the two matrices are called, by software and age.
_ENDINGS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
}
#: What other kinds of adapters call their parts (LoHa, LoKr, DoRA, differences): recognised, to be refused by name.
_OTHERS = ("hada_w", "lokr_w", "dora_scale", "lora_magnitude_vector", "oft_", ".diff")
_PEFT = "base_model.model."


def _ending(name: str) -> tuple[str, str] | None:
    for ending, part in _ENDINGS.items():
        if name.endswith(f".{ending}"):
            return name.removesuffix(f".{ending}"), part
    return None


def recognises(foreign: Foreign) -> bool:
    """Also adapters of other kinds, which `read` then refuses by their tensors' names."""
    found = [_ending(name) for name in foreign.tensors]
    others = any(name.startswith("lora_") or part in name for name in foreign.tensors for part in _OTHERS)
    return others or any(one is not None and one[1] != "alpha" for one in found)


# --- reading ------------------------------------------------------------------------------------------------


def read(backbone: Backbone, foreign: Foreign, partial: bool) -> list[Code]:
    """One code for each component that the file changes. Raises UserError for what does not fit."""
    places = _places(backbone)
    pairs: dict[tuple[str, str], dict[str, Tensor]] = {}
    rest = []
    for name, value in foreign.tensors.items():
        found = _ending(name)
        place = places(found[0]) if found else None
        if found is None or place is None:
            rest.append(name)
        else:
            pairs.setdefault(place, {})[found[1]] = value
    codes: dict[str, dict[str, Tensor]] = {}
    for (component, module), parts in pairs.items():
        weight = backbone.components[component].get_submodule(module).weight
        assert isinstance(weight, Tensor)
        if not _fits(parts, weight):
            rest.append(f"{component}.{module}")
            continue
        down, up = parts["down"].flatten(1).to(weight.dtype), parts["up"].flatten(1).to(weight.dtype)
        scale = _alpha(foreign, component, module, parts, rank=len(down)) / len(down)
        codes.setdefault(component, {}).update(
            {f"{module}.weight.down": down, f"{module}.weight.up": up if scale == 1 else scale * up}
        )
    refuse_rest(foreign.path, rest, backbone, partial=partial)
    if not codes:
        raise UserError(f"Nothing of {foreign.path.name} fits {backbone.id}: load the backbone it was made for.")
    return [
        Code(_SPACE, tensors, False, {"settings": {"rank": _rank(tensors)}, "component": component})
        for component, tensors in codes.items()
    ]


def _rank(tensors: Mapping[str, Tensor]) -> int:
    return max(len(value) for key, value in tensors.items() if key.endswith(".down"))


def _fits(parts: Mapping[str, Tensor], weight: Tensor) -> bool:
    if not {"down", "up"} <= parts.keys():
        return False
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    return down.shape[1] == weight[0].numel() and up.shape == (weight.shape[0], down.shape[0])


def _alpha(foreign: Foreign, component: str, module: str, parts: Mapping[str, Tensor], *, rank: int) -> float:
    """alpha of a module: in the file, in diffusers' metadata, or in peft's configuration beside it; else the rank."""
    if "alpha" in parts:
        return float(parts["alpha"])
    settings: dict[str, object] = {}
    if "lora_adapter_metadata" in foreign.metadata:
        every = json.loads(foreign.metadata["lora_adapter_metadata"])
        settings = {k.removeprefix(f"{component}."): v for k, v in every.items() if k.startswith(f"{component}.")}
    beside = foreign.path.parent / "adapter_config.json"
    if not settings and any(name.startswith(_PEFT) for name in foreign.tensors) and beside.is_file():
        settings = json.loads(beside.read_text(encoding="utf-8"))
    patterns = settings.get("alpha_pattern") or {}
    assert isinstance(patterns, dict)
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?{pattern}", module):
            return float(value)
    value = settings.get("lora_alpha", rank)
    assert isinstance(value, (int, float))
    return float(value)


def _places(backbone: Backbone) -> Callable[[str], tuple[str, str] | None]:
    """From the name of a module in any of the formats to (component, path), or None."""
    modules = {component: set(kohya.modules(network)) for component, network in backbone.components.items()}
    short_names = kohya.places(backbone)

    def find(name: str) -> tuple[str, str] | None:
        if name in short_names:
            return short_names[name]
        first, _, rest = name.partition(".")
        candidates = [(first, rest)] if first in modules else []
        if name.startswith(_PEFT):
            candidates = [(component, name.removeprefix(_PEFT)) for component in modules]
        for component, path in candidates:
            # Files may carry CLIP's former `text_model`, which the library has since dropped from some encoders.
            for short in (path, path.removeprefix("text_model."), f"text_model.{path}"):
                if short in modules[component]:
                    return component, short
        return None

    return find


# --- writing ------------------------------------------------------------------------------------------------


def _pairs(codes: Sequence[Code], concept: Concept) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """(component, module) -> (down, up), with alpha, rank and the concept's weight in `up`; later codes add."""
    found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    for code in codes:
        settings = code.meta.get("settings", {})
        rank = settings.get("rank", 8)
        scale = concept.weight * (settings.get("alpha") or rank) / rank
        for key in code.tensors:
            path, _, part = key.rpartition(".")
            if part != "up":
                continue
            place = (code.meta["component"], path.removesuffix(".weight"))
            down, up = code.tensors[f"{path}.down"], scale * code.tensors[f"{path}.up"]
            if place in found:
                down, up = torch.cat([found[place][0], down]), torch.cat([found[place][1], up], 1)
            found[place] = (down.contiguous(), up.contiguous())
    return found


def _shaped(backbone: Backbone, place: tuple[str, str], down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """As convolutions where the module is one: [rank, in, h, w] and [out, rank, 1, 1]."""
    weight = backbone.components[place[0]].get_submodule(place[1]).weight
    assert isinstance(weight, Tensor)
    if weight.ndim == 4:
        return down.reshape(len(down), *weight.shape[1:]), up[:, :, None, None]
    return down, up


def write_diffusers(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    tensors = {}
    for place, pair in _pairs(codes, concept).items():
        down, up = _shaped(backbone, place, *pair)
        tensors[f"{place[0]}.{place[1]}.lora_A.weight"] = down.contiguous()
        tensors[f"{place[0]}.{place[1]}.lora_B.weight"] = up.contiguous()
    return save(tensors, metadata={"format": "pt"})


def write_kohya(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    """Raises UserError for components that kohya's names do not cover as diffusers builds them."""
    tensors = {}
    for place, pair in _pairs(codes, concept).items():
        if not kohya.covers(backbone, place[0]):
            raise UserError(
                f"kohya names the parts of the original {place[0]}, whose projections are fused otherwise than here:"
                " export for 'diffusers' instead."
            )
        down, up = _shaped(backbone, place, *pair)
        name = kohya.name_of(backbone, *place)
        tensors[f"{name}.lora_down.weight"] = down.contiguous()
        tensors[f"{name}.lora_up.weight"] = up.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))
    return save(tensors, metadata={"format": "pt"})


for _software, _file, _write in (
    ("diffusers", "pytorch_lora_weights.safetensors", write_diffusers),
    ("kohya", "lora.safetensors", write_kohya),
):
    exchanges.register(f"{_software} lora", Exchange(_software, _SPACE, _file, _write, recognises, read))
