"""How a diffusers pipeline is loaded: precision, quantised weights, networks that lie outside the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backbones.diffusion.backbone import DiffusionBackbone
from unified.contract.abilities import Tunable
from unified.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PipelineSettings:
    """What `unified.load(..., settings=...)` takes for diffusers pipelines.

    dtype: "float32" or "bfloat16". Not float16: the CPU, where text encoders and samplers compute, does not.
    quantization: a diffusers PipelineQuantizationConfig, or its arguments as a mapping: {"quant_backend":
    "bitsandbytes_4bit", "quant_kwargs": {...}, "components_to_quantize": [...]}. Words and noises can be inverted on
    such a base; what changes weights reaches only those that are not quantised.
    offload: a device, such as "cuda": the generating network and the autoencoder stay in the computer's memory and
    go there part by part while they compute. The text encoders compute where they are. Again for words and noises.
    """

    dtype: str = "float32"
    quantization: Any = None
    offload: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            why = " (the CPU does not compute in it)" if self.dtype == "float16" else ""
            raise UserError(f"dtype={self.dtype!r} was given{why}; choose one of {', '.join(_DTYPES)}.")
        if self.offload and self.quantization is not None:
            raise UserError("Both quantization and offload were given; quantised weights cannot be moved: give one.")
        if self.offload:
            _device(self.offload)

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    def arguments(self) -> dict[str, Any]:
        """Of diffusers' from_pretrained."""
        found: dict[str, Any] = {"dtype": self.torch_dtype}
        if self.quantization is not None:
            found["quantization_config"] = quantization_config(self.quantization)
        return found


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"offload={name!r} was given; give a device, such as 'cuda' or 'cuda:1'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"offload={name!r} was given, and this machine has no such device: leave it out.")
    return device


def quantization_config(given: Any) -> Any:
    """A PipelineQuantizationConfig from one or from its arguments. Raises UserError for what it does not take."""
    from diffusers import PipelineQuantizationConfig

    if isinstance(given, PipelineQuantizationConfig):
        return given
    if not isinstance(given, Mapping):
        raise UserError(
            f"quantization is a {type(given).__name__}; give a diffusers PipelineQuantizationConfig or a mapping of its"
            " arguments, such as {'quant_backend': 'bitsandbytes_4bit', 'quant_kwargs': {'load_in_4bit': True}}."
        )
    try:
        return PipelineQuantizationConfig(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"quantization={dict(given)} is not taken by diffusers: {_line(error)}") from error


def unquantised(id: str, settings: PipelineSettings, error: Exception) -> UserError:
    """What to say when a pipeline could not be loaded with a quantisation."""
    return UserError(
        f"{id} could not be loaded quantised ({_line(error)}): install what the quantisation needs, or leave"
        " quantization out."
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- where networks lie -----------------------------------------------------------------------------------


def offload(backbone: DiffusionBackbone, name: str) -> None:
    """Keep the generating network and the autoencoder on the CPU, to compute on the device `name` part by part."""
    from accelerate import cpu_offload

    device = _device(name)
    assert isinstance(backbone, Tunable)
    _ = backbone.fingerprint  # cached: between calls the weights are not in their modules
    for component in (backbone.tunable()[0], "vae"):
        cpu_offload(backbone.components[component], execution_device=device)


def place(id: str, components: Mapping[str, nn.Module]) -> None:
    """Make networks that are on other devices take CPU tensors and give CPU tensors.

    Raises UserError for networks on the CPU that are in half precision.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for name, module in components.items():
        value = next((each for each in module.parameters() if each.is_floating_point()), None)
        if value is None or hasattr(module, "_hf_hook"):
            continue  # diffusers and accelerate have arranged where it computes
        if value.device.type not in ("cpu", "meta"):
            add_hook_to_module(module, AlignDevicesHook(execution_device=value.device, io_same_device=True))
        elif value.dtype == torch.float16:
            raise UserError(
                f"The {name} of {id} is in float16 and on the CPU, which computes in float32 or bfloat16: call"
                " pipeline.to(torch.float32) first."
            )
