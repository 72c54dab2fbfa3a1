"""Concepts to and from the files of other software."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.files import write_files


@dataclass(frozen=True)
class Foreign:
    """What a file of another software holds: tensors by name, and its metadata (of .safetensors)."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Exchange:
    """How the codes of one space are written for one software, and read again.

    software, space: what it serves. file: the usual name of the file.
    write: (backbone, concept, its codes of the space) -> the file's bytes.
    recognises: judges a file by the names of its tensors.
    read: (backbone, file, partial) -> codes. With `partial` what does not fit is left out, otherwise refused.
    """

    software: str
    space: str
    file: str
    write: Callable[[Backbone, Concept, Sequence[Code]], bytes]
    recognises: Callable[[Foreign], bool]
    read: Callable[[Backbone, Foreign, bool], list[Code]]


exchanges: Registry[Exchange] = Registry("exchange format")


def export_concept(backbone: Backbone, concept: Concept, folder: str | Path, *, software: str) -> list[Path]:
    """Write the concept's codes into `folder` as `software` reads them; returns the files.

    Raises UserError if a code has no such format, naming what has; nothing is written then.
    """
    backbone.accept(concept)
    files: dict[str | Path, bytes] = {}
    for space in dict.fromkeys(code.space for code in concept.codes):
        able = [exchange for _, exchange in exchanges if exchange.space == space]
        chosen = next((exchange for exchange in able if exchange.software == software), None)
        if chosen is None:
            others = ", ".join(sorted({exchange.software for exchange in able})) or "nothing but a concept file"
            raise UserError(f"A code of space {space!r} cannot be written for {software!r}; it can for: {others}.")
        codes = [code for code in concept.codes if code.space == space]
        files[Path(folder) / chosen.file] = chosen.write(backbone, concept, codes)
    return write_files({str(path): data for path, data in files.items()})


def import_concept(
    backbone: Backbone,
    path: str | Path,
    *,
    name: str = "<me>",
    carrier: str = "",
    category: str = "",
    partial: bool = False,
) -> Concept:
    """A concept from files of other software: one file, or a folder of them.

    name: the concept's placeholder in prompts. carrier: text that stands for it where no rows do (a trigger word).
    Raises UserError for what is of no known format, of another architecture, or would be loaded only in part;
    `partial=True` loads what fits.
    """
    path = Path(path)
    found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise UserError(f"There is no file of a concept at {path}: give a {', '.join(_SUFFIXES)} file or a folder.")
    codes: list[Code] = []
    for file in found:
        foreign = read_foreign(file)
        chosen = next((exchange for _, exchange in exchanges if exchange.recognises(foreign)), None)
        if chosen is None:
            known = ", ".join(name for name, _ in exchanges)
            raise UserError(
                f"{file} is of no known concept format (its first entry is {_first(foreign)}); known: {known}."
            )
        codes += chosen.read(backbone, foreign, partial)
    return Concept(
        codes, name, carrier, category, backbone.id, backbone.fingerprint, {"imported": [file.name for file in found]}
    )


_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")


def _first(foreign: Foreign) -> str:
    return next(iter(foreign.tensors), "missing")


def read_foreign(path: Path) -> Foreign:
    """Tensors and metadata of a .safetensors file, or the tensors of a torch file read without running code.

    Nested dictionaries of torch files are flattened with '/'. Raises UserError if it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
                return Foreign(path, tensors, file.metadata() or {})
        return Foreign(path, _flat(torch.load(path, map_location="cpu", weights_only=True)), {})
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} could not be read as tensors ({error}): copy it again, or convert it.") from error
    except Exception as error:
        # torch's unpickler has no exception type of its own in all versions.
        raise UserError(
            f"{path} holds more than tensors ({type(error).__name__}), which is not loaded: convert it to .safetensors."
        ) from error


def _flat(value: object, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {prefix: value.detach()}
    if isinstance(value, Mapping):
        parts = [_flat(item, f"{prefix}/{key}" if prefix else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {}


def refuse_rest(path: Path, rest: Sequence[str], backbone: Backbone, *, partial: bool) -> None:
    """Raise UserError if tensors of a file would stay unused, naming some, unless `partial` allows it."""
    if rest and not partial:
        shown = ", ".join(sorted(rest)[:4]) + (", ..." if len(rest) > 4 else "")
        raise UserError(
            f"{len(rest)} tensors of {path.name} have no place in {backbone.id} ({shown}): it was made for another"
            " architecture or naming. Load the backbone it was made for, or pass partial=True to use what fits."
        )
