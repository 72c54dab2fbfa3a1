"""Named attribute directions of a GAN: a file beside its weights, and how such a file is made.

A direction belongs to one value of one attribute and is named "attribute=value" ("mouth=smile"). Its unit:
strength 1 moves w by one standard deviation of the generator's own samples along the direction, so that
strengths mean the same for every direction and generator; -3 to 3 is what samples span.

The file is safetensors, name -> unit vector [width] (or [number, width], one for each layer), with JSON in
the metadata: the generator's fingerprint, who judged the samples, how many there were, and for each
direction the deviation in w, the accuracy of its boundary and how often samples show the value.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from editing.latent.interfacegan import conditional
from editing.latent.names import aliases
from editing.styles import gan_of
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.files import cache_folder, write_file
from unified.zoo.registry import WEIGHTS

FORMAT = 1
FILE = "directions.safetensors"
_KEY = "unified-directions"


@dataclass(frozen=True)
class Direction:
    """One direction.

    vector: unit vector [width], or [number, width] with a vector for each layer. deviation: standard
    deviation of samples along it, in w: what strength 1 moves by. accuracy: of its boundary on held-out
    samples, 0..1. share: of the samples that show the value, 0..1.
    """

    vector: Tensor
    deviation: float
    accuracy: float = float("nan")
    share: float = float("nan")

    def shift(self, number: int) -> Tensor:
        """What strength 1 adds to styles, [number, width]."""
        step = self.deviation * self.vector
        return step.expand(number, -1) if step.ndim == 1 else step


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of one generator.

    items: by name. backbone, fingerprint: the generator. extractor: who judged. samples: how many were
    judged. left_out: values without a direction, and why.
    """

    items: Mapping[str, Direction]
    backbone: str
    fingerprint: str
    extractor: str = ""
    samples: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name and alias, sorted: what edits can ask for."""
        return sorted({*self.items, *aliases(self.items)})

    def find(self, name: str) -> tuple[str, float]:
        """The full name that `name` stands for, and the sign. Raises UserError with the nearest names."""
        if name in self.items:
            return name, 1.0
        plain = " ".join(name.lower().replace("_", " ").split())
        known = aliases(self.items)
        if plain in known:
            return known[plain]
        near = difflib.get_close_matches(plain, [*self.items, *known], n=5, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(sorted(known)[:12])}, ..."
        raise UserError(f"{self.backbone} has no direction {name!r}; {hint}. `unified edit --list` shows all.")

    def shift(self, asked: str, number: int) -> Tensor:
        """What strength 1 of an edit adds to styles, [number, width].

        asked: "NAME", "NAME@4-7" for the layers 4 to 7 alone (from 0), "NAME|OTHER|OTHER" to leave the scores
        of other attributes as they are, or "NAME|OTHER@4-7". Raises UserError for what it cannot read.
        """
        text, separator, layers = asked.partition("@")
        name, *others = (part.strip() for part in text.split("|"))
        found, sign = self.find(name)
        direction = self.items[found]
        if others:
            vectors = [self.items[self.find(other)[0]].vector for other in others]
            if any(v.ndim != 1 for v in (direction.vector, *vectors)):
                raise UserError(f"{asked!r}: only directions with one vector for all layers can leave others alone.")
            direction = Direction(conditional(direction.vector, *vectors), direction.deviation)
        shift = sign * direction.shift(number)
        if separator:
            first, last = _layer_range(asked, layers, number)
            kept = torch.zeros(number, 1, dtype=shift.dtype)
            kept[first : last + 1] = 1
            shift = shift * kept
        return shift

    def total(self, edits: Mapping[str, float], number: int) -> Tensor | None:
        """What all edits together add to styles, [number, width]; None for none but zeros.

        The order in which the edits are given does not matter, to the last bit.
        """
        shifts = {asked: self.shift(asked, number) for asked in sorted(edits)}
        bad = [f"{name}={edits[name]}" for name in shifts if not math.isfinite(edits[name])]
        if bad:
            raise UserError(f"The strength of an edit must be a finite number; {', '.join(bad)} was given.")
        parts = [edits[asked] * shift for asked, shift in shifts.items() if edits[asked] != 0]
        return torch.stack(parts).sum(0) if parts else None


def _layer_range(asked: str, layers: str, number: int) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", layers)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < number:
        raise UserError(f"{asked!r}: write layers as '@first-last' within 0-{number - 1}, such as '@4-7'.")
    return first, last


def save_directions(directions: Directions, path: str | Path) -> Path:
    """Write a direction file; returns its path."""
    described = {
        name: {
            key: value
            for key, value in (("deviation", d.deviation), ("accuracy", d.accuracy), ("share", d.share))
            if math.isfinite(value)
        }
        for name, d in directions.items.items()
    }
    description = {
        "format": FORMAT,
        "unit": "strength 1 moves w by `deviation` along the unit vector: one standard deviation of samples",
        **_provenance(directions),
        "directions": described,
    }
    text = json.dumps(description, sort_keys=True)
    tensors = {name: d.vector.detach().float().contiguous().clone() for name, d in directions.items.items()}
    return write_file(path, save(tensors, metadata={_KEY: text}))


def _provenance(directions: Directions) -> dict[str, Any]:
    """The fields of `directions` but the directions themselves, as JSON values."""
    return {
        "backbone": directions.backbone,
        "fingerprint": directions.fingerprint,
        "extractor": directions.extractor,
        "samples": directions.samples,
        "left_out": dict(directions.left_out),
    }


def _describe(path: Path) -> dict[str, Any]:
    """The JSON of a direction file. Raises UserError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description: dict[str, Any] = json.loads(metadata[_KEY])
        if description["format"] > FORMAT:
            raise UserError(f"{path} has direction format {description['format']}; upgrade unified to read it.")
        return description
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no direction file, or only a part of one ({error}). Find the directions again."
        ) from error


def load_directions(path: str | Path, backbone: Backbone) -> Directions:
    """Read a direction file of `backbone`.

    Raises UserError if it is missing, damaged, does not fit, or was made for other weights.
    """
    path = Path(path)
    description = _describe(path)
    if description["fingerprint"] != backbone.fingerprint:
        raise UserError(
            f"The directions in {path} were found on {description['backbone']} (weights"
            f" {description['fingerprint']}); this is {backbone.id} (weights {backbone.fingerprint})."
            " Find them again for this generator: `unified edit --find`."
        )
    number, width = gan_of(backbone).style_shape()
    items = {}
    with safe_open(path, framework="pt") as file:
        for name, values in description["directions"].items():
            vector = file.get_tensor(name).clone()
            if tuple(vector.shape) not in ((width,), (number, width)) or not bool(torch.isfinite(vector).all()):
                raise UserError(f"{path}: the direction {name!r} has shape {tuple(vector.shape)}; expected [{width}].")
            items[name] = Direction(vector, **values)
    return Directions(
        items=items,
        **{key: description[key] for key in ("backbone", "fingerprint", "extractor", "samples", "left_out")},
    )


def user_file(fingerprint: str) -> Path:
    """Where the directions of a generator that is not embedded lie: in UNIFIED_CACHE or ~/.cache/unified."""
    return cache_folder() / "directions" / f"{fingerprint}.safetensors"


def direction_file(fingerprint: str) -> Path | None:
    """The direction file of a generator: the user's own, else an embedded one; None if there is neither."""
    own = user_file(fingerprint)
    if own.exists():
        return own
    for path in sorted(WEIGHTS.glob(f"*/{FILE}")):
        if _describe(path)["fingerprint"] == fingerprint:
            return path
    return None


def directions_for(backbone: Backbone) -> Directions:
    """The named directions of a GAN. Raises UserError, saying how to make them, if there are none."""
    gan_of(backbone)
    path = direction_file(backbone.fingerprint)
    if path is None:
        raise UserError(
            f"No attribute directions are known for {backbone.id} (weights {backbone.fingerprint}): find"
            " them with `unified edit --find`, or for the embedded model with"
            " `unified zoo build avatars/directions`."
        )
    return load_directions(path, backbone)
