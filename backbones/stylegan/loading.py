"""StyleGAN2 checkpoints from files, recognised by content."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.stylegan.backbone import stylegan
from backbones.stylegan.formats.inspection import Inspection, can_inspect, inspect
from backbones.stylegan.formats.networks import load_file
from backbones.stylegan.formats.recognition import Format, format_of
from backbones.stylegan.formats.tensors import FORMAT, load_networks
from unified.contract.backbone import Backbone
from unified.inspection import inspectors
from unified.loading import Loader, loaders

NETWORKS = "networks.safetensors"
_LONGEST_HEADER = 2**24


def _is_ours(path: Path) -> bool:
    """By the header alone, so that a file whose end is missing is recognised, and refused as damaged."""
    if path.is_dir():
        return (path / NETWORKS).is_file() and _is_ours(path / NETWORKS)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= _LONGEST_HEADER else b""
    try:
        metadata = json.loads(header).get("__metadata__")
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(metadata, dict) and metadata.get("format") == FORMAT


def _is(*formats: Format) -> Loader:
    """The loader of files that are one of `formats`; the first names it."""

    def recognises(path: Path) -> bool:
        return format_of(path) in formats

    return Loader(f"stylegan {formats[0]}", recognises, load_torch)


def load_ours(path: Path, id: str) -> Backbone:
    """Our safetensors file, or the folder that holds it."""
    return stylegan(id, *load_networks(path / NETWORKS if path.is_dir() else path))


def load_torch(path: Path, id: str) -> Backbone:
    """A .pkl or .pt file of any kind, read without running anything of it."""
    return stylegan(id, *load_file(path))


for _loader in (
    Loader("stylegan safetensors", _is_ours, load_ours),
    # Pickles that are nothing known are taken too: reading them says what they are.
    _is("official .pkl", "other pickle"),
    _is("TensorFlow .pkl"),
    _is("PTI .pt"),
    _is("rosinality .pt"),
    _is("encoder .pt"),
):
    loaders.register(_loader.name, _loader)


def _inspect(path: Path) -> Inspection | None:
    return inspect(path) if can_inspect(path) else None


inspectors.register("checkpoints", _inspect)
