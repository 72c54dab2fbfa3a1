"""Checkpoint formats, read without running anything of the file, and written.

Read: the official .pkl (torch and TensorFlow), the .pt of PTI, rosinality, pSp, e4e, ReStyle, HyperStyle and HFGI,
our safetensors. Written: rosinality's .pt and our safetensors.
"""

from backbones.stylegan.formats.encoders import EncoderCheckpoint, load_encoder
from backbones.stylegan.formats.errors import UnsafeFileError
from backbones.stylegan.formats.inspection import Inspection, inspect
from backbones.stylegan.formats.networks import load_file
from backbones.stylegan.formats.official import load_official, read_official
from backbones.stylegan.formats.restricted import read_content, read_pickle
from backbones.stylegan.formats.rosinality import load_rosinality, save_rosinality
from backbones.stylegan.formats.tensorflow import load_tensorflow
from backbones.stylegan.formats.tensors import load_networks, save_networks

__all__ = [
    "EncoderCheckpoint",
    "Inspection",
    "UnsafeFileError",
    "inspect",
    "load_encoder",
    "load_file",
    "load_networks",
    "load_official",
    "load_rosinality",
    "load_tensorflow",
    "read_content",
    "read_official",
    "read_pickle",
    "save_networks",
    "save_rosinality",
]
