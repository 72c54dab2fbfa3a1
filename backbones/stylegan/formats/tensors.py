"""Our own format: one safetensors file with tensors by official name and the configurations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backbones.stylegan.config import DiscriminatorConfig, GeneratorConfig
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.assemble import fill
from backbones.stylegan.formats.errors import describing
from backbones.stylegan.generator import Generator
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from unified.errors import UserError

FORMAT = "unified-stylegan2"
VERSION = 1


def save_networks(
    path: str | Path,
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write both networks to one file: tensors "generator.*", "discriminator.*", configurations as metadata.

    dtype: float32 keeps every bit; float16 halves the file (relative error 5e-4). A tensor with values beyond the
    range of `dtype` stays float32.
    """
    networks: dict[str, nn.Module] = {"generator": generator}
    metadata = {"format": FORMAT, "version": str(VERSION), **(extra or {})}
    metadata["generator"] = json.dumps(generator.config.to_dict())
    if discriminator is not None:
        networks["discriminator"] = discriminator
        metadata["discriminator"] = json.dumps(discriminator.config.to_dict())
    tensors = {
        f"{network}.{name}": _narrowed(value.detach().cpu(), dtype).contiguous()
        for network, module in networks.items()
        for name, value in module.state_dict().items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    safetensors.torch.save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def _narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    fits = value.numel() == 0 or float(value.abs().max()) <= torch.finfo(dtype).max
    return value.to(dtype if fits else torch.float32)


def load_networks(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The networks of :func:`save_networks`, in fp32, in eval mode, frozen.

    Raises UserError if the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}). Check the path or write it again.") from None
    if metadata.get("format") != FORMAT or "generator" not in metadata:
        raise UserError(f"{path} is a safetensors file of kind {metadata.get('format')!r}; expected {FORMAT!r}.")
    with describing(path):
        return _networks(metadata, tensors, path)


def _networks(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], path: str | Path
) -> tuple[Generator, Discriminator | None]:
    settings = _json(metadata["generator"], path)
    kind = AliasFreeConfig if "radial_filters" in settings else GeneratorConfig
    generator = fill(Generator, kind.from_dict(settings), _part(tensors, "generator."))
    discriminator = None
    if "discriminator" in metadata:
        judge = DiscriminatorConfig.from_dict(_json(metadata["discriminator"], path))
        discriminator = fill(Discriminator, judge, _part(tensors, "discriminator."))
    return generator, discriminator


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _json(text: str, path: str | Path) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"The configuration in {path} is damaged. Write the file again.")
    return value
