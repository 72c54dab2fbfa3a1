"""What the files of encoders say beside the networks: the mean w, and what the training was called with."""

from __future__ import annotations

from torch import Tensor

from backbones.stylegan.encoders.inverter import average_of
from backbones.stylegan.formats.encoders import EncoderCheckpoint
from unified.errors import UserError


def average_in(checkpoint: EncoderCheckpoint, num_ws: int, where: str) -> Tensor:
    """The mean w that the encoder's output is added to."""
    if checkpoint.options.get("start_from_latent_avg") is False:
        raise UserError(f"{where} holds an encoder that does not start from the mean w; such ones are not known here.")
    average = checkpoint.latent_avg
    if average is None and checkpoint.decoder is not None:
        average = checkpoint.decoder.mapping.w_avg
    if average is None:
        raise UserError(f"{where} holds neither the mean w nor the generator that it could be taken from.")
    return average_of(average, num_ws)


def whole(value: object, default: int) -> int:
    """A number of rounds as stored, or the default for anything else."""
    return value if type(value) is int and 1 <= value <= 100 else default
