"""The encoders in the files of pSp, e4e and ReStyle: their tensors, and what the stored options say of them.

Which encoder it is, shapes do not tell: pSp and e4e have the same tensors. The files store what the training was
called with, and that names the network's class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from backbones.stylegan.encoders.config import StyleEncoderConfig, infer_config
from backbones.stylegan.encoders.consultation import ConsultationConfig, ConsultingInverter
from backbones.stylegan.encoders.inverter import Inverter, StyleInverter
from backbones.stylegan.encoders.stored import filled
from backbones.stylegan.formats.encoder_options import average_in, whole
from backbones.stylegan.formats.encoder_weights import weight_inverter_of
from backbones.stylegan.formats.encoders import EncoderCheckpoint, load_encoder
from backbones.stylegan.formats.errors import describing
from unified.errors import UserError

#: The class that the files name -> the encoder's name, and whether its styles are offsets from the first.
_CLASSES: Mapping[str, tuple[str, bool]] = {
    "GradualStyleEncoder": ("psp", False),
    "Encoder4Editing": ("e4e", True),
    "BackboneEncoder": ("restyle-psp", False),
    "ResNetBackboneEncoder": ("restyle-psp", False),
    "ProgressiveBackboneEncoder": ("restyle-e4e", True),
    "ResNetProgressiveBackboneEncoder": ("restyle-e4e", True),
}
_LAST = ("2.res_layer.3.weight",) * 3  # the last convolution of each group of three units
_ITERATIONS = 5  # of ReStyle, where the options do not say


def load_inverter_file(path: str | Path) -> tuple[str, Inverter]:
    """(name, encoder) of a .pt file, for instance ("e4e", ...). Nothing of the file is executed.

    Raises UserError if it holds none that is known, UnsafeFileError if it is hostile or damaged.
    """
    checkpoint = load_encoder(path)
    with describing(path):
        return inverter_of(checkpoint, str(path))


def inverter_of(checkpoint: EncoderCheckpoint, where: str) -> tuple[str, Inverter]:
    """The encoder of a checkpoint that was read, as :func:`load_inverter_file`."""
    options = checkpoint.options
    if "hypernet" in checkpoint.parts:
        return "hyperstyle", weight_inverter_of(checkpoint, where)
    stored = checkpoint.parts.get("encoder")
    if not stored:
        raise UserError(f"{where} holds no encoder; it has {', '.join(checkpoint.parts) or 'only a generator'}.")
    said = str(options.get("encoder_type", ""))
    if said not in _CLASSES:
        raise UserError(
            f"{where} holds an encoder of the class {said or 'that it does not name'}; known are {', '.join(_CLASSES)}."
        )
    name, progressive = _CLASSES[said]
    config = infer_config(stored, progressive=progressive)
    if "residue" in checkpoint.parts:
        return "hfgi", _consulting(checkpoint, config, where)
    rounds = whole(options.get("n_iters_per_batch"), _ITERATIONS) if config.inputs == 6 else 1
    with torch.device("meta"):
        inverter = StyleInverter(config, iterations=rounds)
    tensors = {f"encoder.{key}": value for key, value in stored.items()}
    return name, filled(inverter, tensors | {"latent_avg": average_in(checkpoint, config.num_ws, where)}, where)


def _consulting(checkpoint: EncoderCheckpoint, config: StyleEncoderConfig, where: str) -> Inverter:
    """HFGI's: e4e, the consultation encoder and the alignment. The features are those after the first convolution at
    64 px, which the published code fixes."""
    residue, align = (checkpoint.parts.get(part, {}) for part in ("residue", "grid_align"))
    try:
        widths = [align[f"conv_layer{i}.{rest}"].shape[0] for i, rest in enumerate(("0.weight", *_LAST), 1)]
        consult = [residue[f"conv_layer{i}.{rest}"].shape[0] for i, rest in enumerate(("0.weight", *_LAST[:2]), 1)]
        channels = residue["condition_scale3.2.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise UserError(f"{where} does not hold HFGI's networks: {error} is missing.") from None
    place = ConsultationConfig(channels=channels, align=tuple(widths), consult=tuple(consult))  # type: ignore[arg-type]
    with torch.device("meta"):
        inverter = ConsultingInverter(config, place)
    tensors = {
        f"{part}.{key}": value
        for part in ("encoder", "residue", "grid_align")
        for key, value in checkpoint.parts[part].items()
    }
    return filled(inverter, tensors | {"latent_avg": average_in(checkpoint, config.num_ws, where)}, where)
