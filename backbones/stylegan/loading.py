"""StyleGAN2 checkpoints from files, recognised by content."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from backbones.stylegan.backbone import StyleGAN
from backbones.stylegan.formats.official import load_official
from backbones.stylegan.formats.tensors import FORMAT, load_networks
from unified.contract.backbone import Backbone
from unified.loading import Loader, loaders

NETWORKS = "networks.safetensors"
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return (path / NETWORKS).is_file() and _is_ours(path / NETWORKS)
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _is_pickle(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in _PICKLE_STARTS


def load_ours(path: Path, id: str) -> Backbone:
    """Our safetensors file, or the folder that holds it."""
    return StyleGAN(id, *load_networks(path / NETWORKS if path.is_dir() else path))


def load_pickle(path: Path, id: str) -> Backbone:
    """The official torch .pkl, read without running anything of it."""
    return StyleGAN(id, *load_official(path))


loaders.register("stylegan safetensors", Loader("stylegan safetensors", _is_ours, load_ours))
loaders.register("stylegan official pickle", Loader("stylegan official pickle", _is_pickle, load_pickle))
