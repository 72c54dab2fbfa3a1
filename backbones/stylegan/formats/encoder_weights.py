"""HyperStyle in the published files: the hypernetwork in one, its encoder into W in another beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.encoders.config import StyleEncoderConfig, infer_config, infer_stages
from backbones.stylegan.encoders.hypernetwork import HypernetworkConfig, WeightInverter
from backbones.stylegan.encoders.inverter import Inverter
from backbones.stylegan.encoders.plan import changed_layers
from backbones.stylegan.encoders.stored import filled
from backbones.stylegan.formats.encoder_options import average_in, whole
from backbones.stylegan.formats.encoders import EncoderCheckpoint, load_encoder
from unified.errors import UserError

#: Name of the encoder's file where the options do not say.
_ENCODER = "faces_w_encoder.pt"
_ITERATIONS = 5


def weight_inverter_of(checkpoint: EncoderCheckpoint, where: str) -> Inverter:
    """The whole of it. Raises UserError if the other file is not there, or for heads of another kind."""
    if checkpoint.decoder is None or not isinstance(checkpoint.decoder.config, GeneratorConfig):
        raise UserError(f"{where} holds no StyleGAN2 whose weights the hypernetwork could change.")
    generator = checkpoint.decoder.config
    stored = checkpoint.parts["hypernet"]
    encoder, first = _first_encoder(checkpoint, where, generator.num_ws)
    config = _config(stored, generator, where)
    with torch.device("meta"):
        rounds = whole(checkpoint.options.get("n_iters_per_batch"), _ITERATIONS)
        # An encoder into W says nothing of the size of its pictures: it takes the hypernetwork's.
        inverter = WeightInverter(replace(encoder, resolution=config.resolution), config, iterations=rounds)
    tensors = {f"hypernet.{name}": value for name, value in stored.items()} | first
    return filled(inverter, tensors | {"latent_avg": average_in(checkpoint, generator.num_ws, where)}, where)


def _config(stored: Mapping[str, Tensor], generator: GeneratorConfig, where: str) -> HypernetworkConfig:
    if any(".make_kernel_in." in name for name in stored):
        raise UserError(f"{where} holds a hypernetwork with separable heads; known are those of its usual class.")
    try:
        chosen = {int(match[1]) for name in stored if (match := re.match(r"refinement_blocks\.(\d{1,2})\.", name))}
        layers = tuple(layer for layer in changed_layers(generator) if layer[0] in chosen)
        shared = generator.channels_at(4)
        sharing = next(n for n, _, outputs, inputs in layers if outputs == inputs == shared)
        own = next((n for n, _, outputs, inputs in layers if not outputs == inputs == shared), None)
        dense = stored[f"refinement_blocks.{sharing}.linear.weight"]
        halvings = (
            sum(1 for name in stored if re.fullmatch(rf"refinement_blocks\.{sharing}\.convs\.\d+\.weight", name)) - 1
        )
        outputs = stored["shared_weight_hypernet.w1"].shape[1]
        return HypernetworkConfig(
            layers=layers,
            shared=shared,
            stem=stored["conv1.weight"].shape[0],
            stages=infer_stages(stored, resnet=True),
            resolution=16 * 2**halvings,
            wide=dense.shape[0],
            inner=256 if own is None else stored[f"refinement_blocks.{own}.convs.0.weight"].shape[0],
            shared_inner=stored[f"refinement_blocks.{sharing}.convs.0.weight"].shape[0],
            kernel=round((outputs / shared) ** 0.5),
        )
    except (KeyError, IndexError, StopIteration) as error:
        raise UserError(f"{where} does not hold HyperStyle's hypernetwork: {error} is missing.") from None


def _first_encoder(
    checkpoint: EncoderCheckpoint, where: str, num_ws: int
) -> tuple[StyleEncoderConfig, dict[str, Tensor]]:
    """The encoder into W: settings and tensors."""
    said = checkpoint.options.get("w_encoder_checkpoint_path")
    path = Path(where).expanduser().with_name(Path(said).name if isinstance(said, str) and said else _ENCODER)
    if not path.is_file():
        raise UserError(
            f"HyperStyle begins with an encoder into W, whose file is published apart from {where}: put it beside it as"
            f" {path.name}."
        )
    tensors = load_encoder(path).parts.get("encoder", {})
    config = infer_config(tensors, progressive=False, num_ws=num_ws)
    if not config.single:
        raise UserError(f"{path} holds an encoder into W+; HyperStyle begins with one into W.")
    return config, {f"encoder.{name}": value for name, value in tensors.items()}
