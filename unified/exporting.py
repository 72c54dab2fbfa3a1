"""Writing concepts in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.registry import Registry
from unified.errors import UserError


@dataclass(frozen=True)
class Exporter:
    """A format. `takes`: whether concepts of this backbone can be written in it at all.

    write: (backbone, concept, path, picture) -> the files written. `picture` is the number of the picture whose
    codes are written where the format holds one picture only. Raises UserError for codes without a place in it.
    """

    suffix: str
    takes: Callable[[Backbone], bool]
    write: Callable[[Backbone, Concept, Path, int], list[Path]]


exporters: Registry[Exporter] = Registry("export format")


def export(backbone: Backbone, concept: Concept, path: str | Path, *, picture: int = 0) -> list[Path]:
    """Write a concept to `path`, in the format that the suffix and the backbone decide; returns the files.

    picture: which picture's codes, counted from 0, where the format holds one. Raises UserError before writing
    for a concept of other weights, an unknown suffix, or what the format has no place for.
    """
    path = Path(path).expanduser()
    backbone.accept(concept)
    if concept.pictures is not None and not 0 <= picture < concept.pictures:
        raise UserError(f"Picture {picture} was asked for; the concept has {concept.pictures}, counted from 0.")
    able = {exporter.suffix: exporter for _, exporter in exporters if exporter.takes(backbone)}
    if path.suffix not in able:
        known = ", ".join(sorted(able)) or "no other format yet"
        raise UserError(f"{path.name} ends in {path.suffix!r}; concepts of {backbone.id} can be written as {known}.")
    return able[path.suffix].write(backbone, concept, path, picture)
