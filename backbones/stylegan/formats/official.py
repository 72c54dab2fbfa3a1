"""The official torch .pkl of StyleGAN2: {"G", "D", "G_ema", ...}, each a persistent network object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from backbones.stylegan.config import infer_discriminator, infer_generator
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.restricted import MAX_DEPTH, Stub, UnsafeFileError, plain, read_pickle
from backbones.stylegan.generator import Generator
from unified.errors import UserError

Network = TypeVar("Network", Generator, Discriminator)


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it is in the file: its class, arguments and tensors by official name."""

    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


def read_official(path: str | Path) -> dict[str, StoredNetwork]:
    """All networks of the file by name ("G", "D", "G_ema"), without running anything of it.

    Raises UnsafeFileError if the file asks for anything outside the allow list or is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = read_pickle(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check the path.") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}; expected a dict with G_ema, as the official StyleGAN2 "
            "training writes it."
        )
    return {key: _network(value) for key, value in content.items() if isinstance(value, Stub)}


def load_official(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The averaged generator (G_ema, or G) and the discriminator if there is one, in fp32, in eval mode.

    Raises UserError for networks that are not StyleGAN2's.
    """
    stored = read_official(path)
    source = stored.get("G_ema") or stored.get("G")
    if source is None:
        raise UserError(f"{path} holds {sorted(stored) or 'no networks'}; expected G_ema or G.")
    generator = build_generator(source)
    discriminator = build_discriminator(stored["D"]) if "D" in stored else None
    return generator, discriminator


def build_generator(stored: StoredNetwork) -> Generator:
    """The network of the inferred configuration, with the stored tensors."""
    synthesis = stored.arguments.get("synthesis_kwargs") or {}
    known = _clamp(stored.arguments, synthesis) | _multiplier(stored.arguments)
    network = Generator(infer_generator(stored.tensors, **known))
    return _filled(network, stored)


def build_discriminator(stored: StoredNetwork) -> Discriminator:
    known = _clamp(stored.arguments) | _multiplier(stored.arguments)
    epilogue = stored.arguments.get("epilogue_kwargs") or {}
    if "mbstd_group_size" in epilogue:
        known["group_size"] = epilogue["mbstd_group_size"]
    network = Discriminator(infer_discriminator(stored.tensors, **known))
    return _filled(network, stored)


def _clamp(*sources: dict[str, Any]) -> dict[str, Any]:
    for source in sources:
        if "conv_clamp" in source:
            value = source["conv_clamp"]
            return {"conv_clamp": None if value is None else float(value)}
    return {}


def _multiplier(arguments: dict[str, Any]) -> dict[str, Any]:
    mapping = arguments.get("mapping_kwargs") or {}
    return {"learning_rate_multiplier": float(mapping["lr_multiplier"])} if "lr_multiplier" in mapping else {}


def _filled(network: Network, stored: StoredNetwork) -> Network:
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in stored.tensors.items()})
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"The stored {stored.class_name} does not fit StyleGAN2: {' '.join(lines[1:3])[:400]}"
        ) from None
    return network.eval().requires_grad_(False)


def _network(stub: Stub) -> StoredNetwork:
    tensors: dict[str, Tensor] = {}
    _collect(stub, "", tensors, 0)
    arguments = plain(stub.state.get("_init_kwargs") or {})
    return StoredNetwork(stub.class_name, arguments if isinstance(arguments, dict) else {}, tensors)


def _collect(value: Any, prefix: str, tensors: dict[str, Tensor], depth: int) -> None:
    """Walk the __dict__ of a torch module: its _parameters, _buffers and _modules."""
    if depth > MAX_DEPTH or not isinstance(value, Stub):
        raise UnsafeFileError(f"The module {prefix!r} of the file is not a network. Download the file again.")
    for group in ("_parameters", "_buffers"):
        for name, tensor in (value.state.get(group) or {}).items():
            if isinstance(tensor, Tensor) and name not in (
                value.state.get("_non_persistent_buffers_set") or ()
            ):
                tensors[prefix + str(name)] = (
                    tensor.detach() if tensor.dtype != torch.float16 else tensor.float()
                )
    for name, child in (value.state.get("_modules") or {}).items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", tensors, depth + 1)
