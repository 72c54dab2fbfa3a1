"""The concept file: one .safetensors with the codes' tensors and a JSON description.

Tensors are named `<number of the code>/<name in the code>`. The metadata has one entry, `unified`: JSON with
the format version, the backbone's id and fingerprint, every setting, versions, seconds, losses, a thumbnail
(PNG, base64) and a checksum of the tensors, so that an altered file is refused rather than used.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.errors import UserError
from unified.files import write_file

FORMAT = 1
SUFFIX = ".safetensors"
_KEY = "unified"
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _checksum(tensors: Mapping[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_concept(concept: Concept, path: Path) -> Path:
    """Write `concept`; the suffix .safetensors is added if there is none. Returns the path written."""
    if path.suffix != SUFFIX:
        path = path.with_name(path.name + SUFFIX)
    tensors: dict[str, Tensor] = {}
    for number, code in enumerate(concept.codes):
        for name, value in code.tensors.items():
            tensors[f"{number}/{name}"] = value.detach().cpu().contiguous().clone()
    description = {
        "format": FORMAT,
        "name": concept.name,
        "carrier": concept.carrier,
        "category": concept.category,
        "backbone": concept.backbone,
        "fingerprint": concept.fingerprint,
        "weight": concept.weight,
        "codes": [{"space": c.space, "per_picture": c.per_picture, "meta": c.meta} for c in concept.codes],
        "meta": concept.meta,
    }
    text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    metadata = {_KEY: text, "checksum": _checksum(tensors, text)}
    return write_file(path, save(tensors, metadata=metadata))


def read_description(path: Path) -> dict[str, Any]:
    """The JSON of a concept file, tensors not read."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.exists():
        raise UserError(f"There is no concept file {path}: give the path that concept.save() returned.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Clones: tensors of a mapped file can be unaligned, which changes results by 1e-7.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is no concept file, or only a part of one ({error}). Copy it again, or invert again."
        ) from error
    if _KEY not in metadata:
        raise UserError(f"{path} is a .safetensors file but holds no concept of unified (no '{_KEY}' description).")
    text = metadata[_KEY]
    if metadata.get("checksum") != _checksum(tensors, text):
        raise UserError(f"{path} was altered after it was written (its checksum differs): restore it or invert again.")
    description = json.loads(text)
    if description["format"] > FORMAT:
        raise UserError(
            f"{path} has concept format {description['format']}; this version reads up to {FORMAT}: upgrade unified."
        )
    return description, tensors


def load_concept(path: Path) -> Concept:
    """Read a concept file. Raises UserError if it is missing, truncated, altered or too new."""
    description, tensors = _read(Path(path))
    codes = []
    for number, entry in enumerate(description["codes"]):
        own = {k.split("/", 1)[1]: v for k, v in tensors.items() if k.split("/", 1)[0] == str(number)}
        codes.append(Code(entry["space"], own, entry["per_picture"], entry["meta"]))
    return Concept(
        codes=codes,
        name=description["name"],
        carrier=description["carrier"],
        category=description["category"],
        backbone=description["backbone"],
        fingerprint=description["fingerprint"],
        meta=description["meta"],
        weight=description["weight"],
    )
