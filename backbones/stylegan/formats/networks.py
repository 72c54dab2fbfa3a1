"""The networks in a .pkl or .pt file of any of the known kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.encoders import build_decoder, parts_of
from backbones.stylegan.formats.errors import describing
from backbones.stylegan.formats.official import build_networks, official_networks
from backbones.stylegan.formats.restricted import Stub, read_content, tensors_of
from backbones.stylegan.formats.rosinality import build_rosinality
from backbones.stylegan.formats.tensorflow import build_tensorflow, networks_of
from backbones.stylegan.generator import Generator
from unified.errors import UserError

_STYLEGAN1 = ("g_synthesis.", "g_mapping.", "generator.progression.", "progression.")


def load_file(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The generator (averaged, if the file holds that one) and the discriminator if there is one.

    Raises UserError for other files, saying what they are; UnsafeFileError for hostile and damaged ones.
    """
    return build(read_content(path), path)


def build(content: Any, path: str | Path) -> tuple[Generator, Discriminator | None]:
    """As :func:`load_file`, of content that was read. Raises UserError and nothing else."""
    with describing(path):
        return _build(content, path)


def _build(content: Any, path: str | Path) -> tuple[Generator, Discriminator | None]:
    if isinstance(content, tuple) or (isinstance(content, Stub) and networks_of((content,))):
        return build_tensorflow(content, path)
    if isinstance(content, Stub) or (
        isinstance(content, dict) and any(isinstance(v, Stub) and v.class_name != "Namespace" for v in content.values())
    ):
        return build_networks(official_networks(content, path), path)
    if isinstance(content, dict):
        if "decoder" in parts_of(tensors_of(content.get("state_dict"))):
            return build_decoder(content, path)
        if any(isinstance(content.get(key), dict) for key in ("g_ema", "g")) or "input.input" in content:
            return build_rosinality(content, path)
    raise UserError(f"{path} holds {_description(content)}. {_EXPECTED}")


_EXPECTED = (
    "Expected a StyleGAN2 or 3: an official .pkl (torch or TensorFlow), or a .pt of PTI, rosinality, pSp, e4e, "
    "ReStyle, HyperStyle or HFGI. `unified models inspect FILE` shows what is in it."
)


def _description(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}, no networks"
    keys = [key for key in content if type(key) is str]
    inner = [key for value in content.values() if isinstance(value, dict) for key in value if type(key) is str]
    if any(key.startswith(_STYLEGAN1) for key in keys + inner):
        return "a StyleGAN1, whose networks differ"
    if "synthesis.input.freqs" in keys + inner:
        return "the tensors of a StyleGAN3 without its settings"
    if parts_of(tensors_of(content.get("state_dict"))):
        return "an encoder without a StyleGAN2 decoder"
    return f"a dict of {', '.join(repr(key[:40]) for key in keys[:5]) or 'nothing'}, no StyleGAN2"
