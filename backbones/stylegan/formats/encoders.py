"""Checkpoints of encoders into StyleGAN2: pSp, e4e, ReStyle, HyperStyle, HFGI.

All are {"state_dict", "opts", "latent_avg"}; names in the state dict begin with the network's: "encoder.",
"decoder." (a StyleGAN2 by rosinality's names), "hypernet.", "residue.", "grid_align.".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.stylegan.formats.errors import describing
from backbones.stylegan.formats.restricted import Stub, plain, read_content, tensors_of
from backbones.stylegan.formats.rosinality import generator_of
from backbones.stylegan.generator import Generator
from unified.errors import UserError


@dataclass(frozen=True)
class EncoderCheckpoint:
    """decoder: None if the file holds none. parts: the tensors of every other network, by its name ("encoder") and
    then by theirs ("input_layer.0.weight"). latent_avg: [w_dim] or [num_ws, w_dim], as stored.
    options: what the training was called with, as plain values."""

    decoder: Generator | None
    parts: dict[str, dict[str, Tensor]]
    latent_avg: Tensor | None
    options: dict[str, Any]


def load_encoder(path: str | Path) -> EncoderCheckpoint:
    """All of the file. Raises UserError if it is another one, UnsafeFileError if it is hostile or damaged."""
    content = read_content(path)
    with describing(path):
        return encoder_of(content, path)


def encoder_of(content: Any, path: str | Path) -> EncoderCheckpoint:
    tensors = tensors_of(content.get("state_dict")) if isinstance(content, dict) else {}
    parts = parts_of(tensors)
    if not parts:
        raise UserError(f"{path} is no encoder checkpoint; expected a dict with state_dict, opts and latent_avg.")
    decoder = parts.pop("decoder", None)
    average = content.get("latent_avg")
    return EncoderCheckpoint(
        decoder=None if decoder is None else generator_of(decoder, average),
        parts=parts,
        latent_avg=average if isinstance(average, Tensor) else None,
        options=_options(content.get("opts")),
    )


def load_decoder(path: str | Path) -> tuple[Generator, None]:
    """Only the generator. Raises UserError if the file holds none."""
    content = read_content(path)
    with describing(path):
        return build_decoder(content, path)


def build_decoder(content: Any, path: str | Path) -> tuple[Generator, None]:
    decoder = encoder_of(content, path).decoder
    if decoder is None:
        raise UserError(f"{path} holds an encoder without its StyleGAN2 decoder; load the generator from its own file.")
    return decoder, None


def parts_of(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the first part of their name, and then by the rest."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, dot, rest = name.removeprefix("module.").partition(".")
        if dot:
            parts.setdefault(network, {})[rest] = tensor
    return parts


def _options(value: Any) -> dict[str, Any]:
    value = value.state if isinstance(value, Stub) else value
    options = plain(value) if isinstance(value, dict) else {}
    return {key: item for key, item in options.items() if type(key) is str}
