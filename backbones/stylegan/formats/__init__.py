"""Checkpoint formats: the official .pkl (read without running its code) and our safetensors."""

from backbones.stylegan.formats.official import load_official, read_official
from backbones.stylegan.formats.restricted import UnsafeFileError, read_pickle
from backbones.stylegan.formats.tensors import load_networks, save_networks

__all__ = [
    "UnsafeFileError",
    "load_networks",
    "load_official",
    "read_official",
    "read_pickle",
    "save_networks",
]
