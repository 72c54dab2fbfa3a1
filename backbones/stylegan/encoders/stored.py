"""Encoders in files: the published .pt of pSp, e4e, ReStyle and their kin, and our own folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.encoders.consultation import ConsultationConfig, ConsultingInverter
from backbones.stylegan.encoders.hypernetwork import HypernetworkConfig, WeightInverter
from backbones.stylegan.encoders.inverter import Inverter, StyleInverter
from backbones.stylegan.encoders.transformer import QueryInverter
from backbones.stylegan.formats.assemble import refuse_repetition
from unified.compact import packed, unpacked
from unified.errors import UserError
from unified.files import write_files

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "stylegan encoder"

_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Inverter]] = {
    StyleInverter.kind: lambda s: StyleInverter(
        StyleEncoderConfig.from_dict(s["encoder"]), iterations=int(s["iterations"])
    ),
    QueryInverter.kind: lambda s: QueryInverter(StyleEncoderConfig.from_dict(s["encoder"])),
    WeightInverter.kind: lambda s: WeightInverter(
        StyleEncoderConfig.from_dict(s["encoder"]),
        HypernetworkConfig.from_dict(s["hypernet"]),
        iterations=int(s["iterations"]),
    ),
    ConsultingInverter.kind: lambda s: ConsultingInverter(
        StyleEncoderConfig.from_dict(s["encoder"]), ConsultationConfig.from_dict(s["consultation"])
    ),
}


def built(kind: str, settings: Mapping[str, Any], *, device: str = "cpu") -> Inverter:
    """An untrained inverter of these settings, which its `settings` gave. Raises UserError for unknown ones.

    device: "meta" for one without values, to be filled.
    """
    try:
        with torch.device(device):
            return _KINDS[kind](settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"An encoder of kind {kind!r} with these settings is not known to this version: {error}."
        ) from None


def filled(inverter: Inverter, tensors: Mapping[str, Tensor], where: str) -> Inverter:
    """The inverter, built on the meta device, with copies of these values in fp32, frozen.

    Shapes are compared before anything is allocated. Raises UserError if they are another network's.
    """
    aliases = inverter.aliases()
    expected = {name: value for name, value in inverter.state_dict().items() if name not in aliases}
    # Counters of batches are in some files and not in others; nothing reads them.
    given = {n: value for n, value in tensors.items() if value.is_floating_point() and n not in aliases}
    wanted = {name: value for name, value in expected.items() if value.is_floating_point()}
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if missing or unknown or wrong:
        said = [
            f"{word} {', '.join(names[:3])}"
            for word, names in (("lacks", missing), ("has besides", unknown), ("has another shape of", wrong))
            if names
        ]
        raise UserError(f"{where} does not hold the encoder that its settings say: it {' and '.join(said)}.")
    refuse_repetition(given.values())
    counters = {n: torch.zeros(v.shape, dtype=v.dtype, device="cpu") for n, v in expected.items() if n not in wanted}
    values = {name: value.detach().to("cpu", torch.float32, copy=True).contiguous() for name, value in given.items()}
    values |= {name: values[other] for name, other in aliases.items()}
    inverter.load_state_dict(counters | values, assign=True)
    return inverter.eval().requires_grad_(False)


def save_inverter(
    folder: Path, inverter: Inverter, *, name: str, card: str, more: Mapping[str, bytes] | None = None
) -> None:
    """Write weights (a byte each, `unified.compact`; statistics fp32), settings and card into `folder`, all or none.

    name: of the encoder ("e4e"). more: further files by name.
    """
    tensors = {
        key: value
        for key, value in inverter.state_dict().items()
        if not key.endswith("num_batches_tracked") and key not in inverter.aliases()
    }
    config = {
        "format": FORMAT,
        "name": name,
        "kind": inverter.kind,
        "generator": inverter.generator,
        "settings": inverter.settings(),
    }
    write_files(
        {
            folder / WEIGHTS: save(packed(tensors, exact=("running_",))),
            folder / CONFIG: (json.dumps(config, indent=1) + "\n").encode(),
            folder / "card.md": card.encode(),
            **{folder / file: data for file, data in (more or {}).items()},
        }
    )


def load_inverter(folder: Path) -> tuple[str, Inverter]:
    """(name, encoder) of a folder of `save_inverter`. Raises UserError for others, and for damaged ones."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = unpacked(load_file(folder / WEIGHTS))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no encoder that can be read ({error}); build it again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{folder} holds no encoder into StyleGAN; expected {CONFIG} with the format {FORMAT!r}.")
    inverter = filled(built(str(config["kind"]), config["settings"], device="meta"), tensors, str(folder))
    inverter.generator = str(config.get("generator", ""))
    return str(config["name"]), inverter
