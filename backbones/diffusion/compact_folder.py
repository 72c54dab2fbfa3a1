"""Pipeline folders that stay small: a byte a weight, and networks that another folder holds already not twice.

Such a folder is one of diffusers but for the weights. `weights.json` says where those of each network are: in a file
of their own, packed (see `unified.compact`), or in a file of another model, where their names may have a prefix.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones.diffusion.hub import INDEX
from unified.compact import packed, unpacked
from unified.errors import UserError

FILE = "weights.json"
_OWN = "compact.safetensors"


@dataclass(frozen=True)
class Place:
    """Where a network's weights are: a file, relative to the folder, and what its names begin with there."""

    file: str
    prefix: str = ""

    def read(self, folder: Path) -> dict[str, Tensor]:
        state = unpacked(load_file(folder / self.file))
        return {name.removeprefix(self.prefix): v for name, v in state.items() if name.startswith(self.prefix)}


def networks_of(folder: Path) -> dict[str, nn.Module]:
    """The networks of a compact folder, in float32; none for a plain one.

    Raises UserError if weights are missing, damaged or do not fit.
    """
    if not (folder / FILE).is_file():
        return {}
    try:
        places = {part: Place(**values) for part, values in json.loads((folder / FILE).read_text("utf-8")).items()}
        index = json.loads((folder / INDEX).read_text("utf-8"))
        found = {}
        for part, place in places.items():
            found[part] = _empty(folder / part, *index[part])
            _fill(found[part], place.read(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{folder} cannot be read as a compact pipeline ({reason}): build it again, with the models that it shares"
            " networks with beside it."
        ) from error
    return {part: network.eval() for part, network in found.items()}


def _empty(folder: Path, library: str, name: str) -> nn.Module:
    """A network of a class of diffusers or transformers, by its settings in the folder."""
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"networks of the library {library!r} are not read")
    cls: Any = getattr(importlib.import_module(library), name)
    if library == "diffusers":
        network: nn.Module = cls.from_config(cls.load_config(folder, local_files_only=True))
    else:
        network = cls(cls.config_class.from_pretrained(folder, local_files_only=True))
    return network


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that may leave out names of weights that stand under another name too (T5's embedding)."""
    own = network.state_dict()
    given = {own[name].data_ptr() for name in state.keys() & own.keys()}
    known = {name for name, value in own.items() if value.data_ptr() in given}
    if not state.keys() <= own.keys() or known != own.keys():
        raise ValueError(f"other weights than a {type(network).__name__} has: {sorted(own.keys() ^ state.keys())[:3]}")
    network.load_state_dict(state, strict=False)


def compact(folder: Path, shared: Mapping[str, Place]) -> None:
    """Make the folder of a pipeline compact. shared: the networks that lie elsewhere, and where.

    Raises UserError, and changes nothing, if a shared network is not what the folder itself holds.
    """
    index = json.loads((folder / INDEX).read_text("utf-8"))
    networks = {part: sorted((folder / part).glob("*.safetensors")) for part in index if (folder / part).is_dir()}
    states = {part: load_file(files[0]) for part, files in networks.items() if files}
    for part, place in shared.items():
        there = place.read(folder)
        if there.keys() != states[part].keys() or any(
            not torch.equal(value.float(), there[name]) for name, value in states[part].items()
        ):
            raise UserError(f"The {part} of {folder} is not that in {place.file}: it cannot be shared.")
    places = {part: shared.get(part, Place(f"{part}/{_OWN}")) for part in states}
    for part, state in states.items():
        if part not in shared:
            save_file(packed(state), folder / part / _OWN)
    (folder / FILE).write_text(json.dumps({p: asdict(w) for p, w in places.items()}, indent=2) + "\n", "utf-8")
    for part in states:
        networks[part][0].unlink()
