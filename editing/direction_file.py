"""Direction files: which directions of a generator are known, and where they came from.

A file is safetensors, name -> unit vector, with JSON in the metadata: the generator's fingerprint, the method,
who judged which samples, and for each direction its deviation, the accuracy of its boundary, how often samples
show the value and what it changes. Paths, which depend on the code, stand beside them with the tensors and settings
of the model that they share. There is one file for each generator and method.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from editing.directions import DEFAULT_METHOD, Direction, Directions
from editing.paths import Path as BentPath
from editing.paths import path_models
from editing.styles import channel_sizes, gan_of
from unified.compact import packed, unpacked
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.files import cache_folder, write_file
from unified.zoo.registry import WEIGHTS

FORMAT = 5  # 1 had no methods, layers, changes and channels; 2 no paths; 3 no strengths; 4 only float32
FILE = "directions.safetensors"
KEY = "unified-directions"
_MODEL = "model/"  # in front of the tensors that paths share


def save_directions(directions: Directions, path: str | Path, *, compact: bool = False) -> Path:
    """Write a direction file; returns its path. compact: in one or two bytes a number (see `unified.compact`)."""
    description: dict[str, Any] = {
        "format": FORMAT,
        "unit": "strength 1 moves by `deviation` along the unit vector: one standard deviation of samples",
        "backbone": directions.backbone,
        "fingerprint": directions.fingerprint,
        "extractor": directions.extractor,
        "samples": directions.samples,
        "left_out": dict(directions.left_out),
        "method": directions.method,
        "data": directions.data,
        # A list: the order of the layers is that of the vectors, and sorted keys would lose it.
        "channels": next((list(d.channels.items()) for d in directions.every.values() if d.channels), []),
        "directions": {name: _values(direction) for name, direction in directions.items.items()},
    }
    tensors = {name: d.vector for name, d in directions.items.items()}
    for name, path_ in directions.paths.items():
        description.setdefault("paths", {})[name] = {"name": path_.name, **_values(path_)}
        description["model"] = {"kind": path_.model.kind, "settings": path_.model.settings()}
        tensors |= {f"{_MODEL}{key}": value for key, value in path_.model.tensors().items()}
    text = json.dumps(description, sort_keys=True)
    tensors = {name: value.detach().float().contiguous().clone() for name, value in tensors.items()}
    return write_file(path, save(packed(tensors) if compact else tensors, metadata={KEY: text}))


def _values(direction: Direction | BentPath) -> dict[str, Any]:
    """What the JSON says of a direction or a path: everything but its tensors."""
    numbers = {key: getattr(direction, key, math.nan) for key in ("deviation", "accuracy", "share", "strength")}
    values: dict[str, Any] = {key: value for key, value in numbers.items() if math.isfinite(value)}
    if direction.layers:
        values["layers"] = list(direction.layers)
    if direction.changes:
        values["changes"] = dict(direction.changes)
    if direction.channels:
        values["space"] = "channels"
    return values


def describe(path: Path) -> dict[str, Any]:
    """The JSON of a direction file. Raises UserError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description: dict[str, Any] = json.loads(metadata[KEY])
        if description["format"] > FORMAT:
            raise UserError(f"{path} has direction format {description['format']}; upgrade unified to read it.")
        return description
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no direction file, or only a part of one ({error}). Find the directions again."
        ) from error


def made_for(fingerprint: str, own: Path, name: str) -> Path | None:
    """The file of a generator: the user's `own`, else an embedded one called `name`; None if there is neither."""
    if own.exists():
        return own
    return next((p for p in sorted(WEIGHTS.glob(f"*/{name}")) if describe(p)["fingerprint"] == fingerprint), None)


def check_fingerprint(path: Path, description: dict[str, Any], backbone: Backbone) -> None:
    """Raises UserError if the file was made for other weights."""
    if description["fingerprint"] != backbone.fingerprint:
        raise UserError(
            f"The directions in {path} were found on {description['backbone']} (weights"
            f" {description['fingerprint']}); this is {backbone.id} (weights {backbone.fingerprint})."
            f" Find them again for this generator: `unified edit --find {description.get('method', DEFAULT_METHOD)}`."
        )


def load_directions(path: str | Path, backbone: Backbone) -> Directions:
    """Read a direction file of `backbone`.

    Raises UserError if it is missing, damaged, does not fit, or was made for other weights.
    """
    path = Path(path)
    description = describe(path)
    check_fingerprint(path, description, backbone)
    number, width = gan_of(backbone).style_shape()
    channels = {str(layer): int(size) for layer, size in description.get("channels", [])}
    if channels and list(channels.items()) != list(channel_sizes(backbone).items()):
        raise UserError(f"The directions in {path} are of other style channels than those of {backbone.id}.")
    tensors = unpacked(load_file(path))
    items = {}
    for name, values in description["directions"].items():
        if name not in tensors:
            raise UserError(f"{path} has no vector of the direction {name!r}: find its directions again.")
        vector = tensors[name]
        given = dict(values)
        own = channels if given.pop("space", "w") == "channels" else {}
        shapes = [(sum(own.values()),)] if own else [(width,), (number, width)]
        if tuple(vector.shape) not in shapes or not bool(torch.isfinite(vector).all()):
            raise UserError(
                f"{path}: the direction {name!r} has shape {tuple(vector.shape)}; expected {list(shapes[0])}."
            )
        layers = given.pop("layers", None)
        items[name] = Direction(vector, layers=None if layers is None else tuple(layers), channels=own, **given)
    paths = _paths(path, description, {k: value for k, value in tensors.items() if k.startswith(_MODEL)})
    return Directions(
        items=items,
        paths=paths,
        **{key: description[key] for key in ("backbone", "fingerprint", "extractor", "samples", "left_out")},
        method=description.get("method", DEFAULT_METHOD),
        data=description.get("data", ""),
    )


def _paths(path: Path, description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, BentPath]:
    """The paths of a file, with the model that they share."""
    if not description.get("paths"):
        return {}
    own = {name.removeprefix(_MODEL): value for name, value in tensors.items()}
    if not all(bool(torch.isfinite(value).all()) for value in own.values()):
        raise UserError(f"{path} holds numbers that are not finite: find its paths again.")
    channels = {str(layer): int(size) for layer, size in description.get("channels", [])}
    try:
        model = path_models.get(description["model"]["kind"])(description["model"]["settings"], own)
        return {
            name: BentPath(
                **{**values, "layers": tuple(values.get("layers", ())), "model": model, "channels": channels}
            )
            for name, values in description["paths"].items()
        }
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"The paths in {path} are damaged ({error}): find them again.") from error


def user_file(fingerprint: str, method: str = DEFAULT_METHOD) -> Path:
    """Where the directions of a generator that is not embedded lie: in UNIFIED_CACHE or ~/.cache/unified."""
    part = "" if method == DEFAULT_METHOD else f".{method}"
    return cache_folder() / "directions" / f"{fingerprint}{part}.safetensors"


def embedded_file(method: str = DEFAULT_METHOD) -> str:
    """What the file of a method's directions is called in the folder of embedded directions."""
    return FILE if method == DEFAULT_METHOD else f"directions-{method}.safetensors"


def direction_files(fingerprint: str) -> dict[str, Path]:
    """Method -> the direction file of a generator: the user's own, else an embedded one."""
    found: dict[str, Path] = {}
    for path in sorted(WEIGHTS.glob("*/directions*.safetensors")):
        description = describe(path)
        if description["fingerprint"] == fingerprint:
            found.setdefault(description.get("method", DEFAULT_METHOD), path)
    own = user_file(fingerprint)
    for path in sorted(own.parent.glob(f"{fingerprint}.*safetensors")):
        found[describe(path).get("method", DEFAULT_METHOD)] = path
    return found


def direction_file(fingerprint: str, method: str = DEFAULT_METHOD) -> Path | None:
    """The direction file of a generator and method; None if there is none."""
    return direction_files(fingerprint).get(method)


def known_directions(backbone: Backbone) -> list[Directions]:
    """The directions of a GAN by method, the default method first. Raises UserError if a file is damaged."""
    files = direction_files(backbone.fingerprint)
    order = sorted(files, key=lambda method: (method != DEFAULT_METHOD, method))
    return [_read_once(files[method], backbone) for method in order]


def _read_once(path: Path, backbone: Backbone) -> Directions:
    """The directions of a file, read again only when it has changed: every edit asks for all of them."""
    stamp = path.stat()
    key = ("directions", str(path), stamp.st_mtime_ns, stamp.st_size)
    return backbone.once(key, lambda: load_directions(path, backbone))


def merged(backbone: Backbone, parts: list[Directions]) -> Directions:
    """Directions of several methods as one: each under "method:name", and under its plain name the first.

    Only directions of attribute values have plain names: the components of unsupervised methods mean something
    else in each.
    """
    items: dict[str, Direction] = {}
    paths: dict[str, BentPath] = {}
    plain: dict[str, BentPath] = {}
    for part in parts:
        for name, direction in part.items.items():
            items[f"{part.method}:{name}"] = direction
            if "=" in name:
                items.setdefault(name, direction)
        for name, path in part.paths.items():
            paths[f"{part.method}:{name}"] = path
            if "=" in name:
                plain.setdefault(name, path)
    paths |= {name: path for name, path in plain.items() if name not in items}
    first = parts[0] if parts else Directions({}, backbone.id, backbone.fingerprint)
    return replace(first, items=items, paths=paths)


def directions_for(backbone: Backbone) -> Directions:
    """The named directions of a GAN. Raises UserError, saying how to make them, if there are none."""
    from editing.by_text import by_text

    gan_of(backbone)
    parts = known_directions(backbone)
    makers = by_text(backbone)
    if not parts and not makers:
        raise UserError(
            f"No attribute directions are known for {backbone.id} (weights {backbone.fingerprint}): find"
            f" them with `unified edit --find {DEFAULT_METHOD}`, or for the embedded model with"
            " `unified zoo build avatars/directions`."
        )
    return replace(merged(backbone, parts), by_text=makers)
