"""What kind of file it is, by its first bytes and the names and texts of its pickle: nothing is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from backbones.stylegan.formats.allowed import NETWORK, TENSORFLOW
from backbones.stylegan.formats.restricted import Container, container_of
from backbones.stylegan.formats.scan import Scan
from backbones.stylegan.formats.source import Source
from backbones.stylegan.formats.zip_files import Archive

Format = Literal["official .pkl", "TensorFlow .pkl", "PTI .pt", "rosinality .pt", "encoder .pt", "other pickle"]

_EARLY = 20_000  # opcodes by which every known file has shown what it is


def format_of(path: Path) -> Format | None:
    """The format of a .pkl or .pt file; None if it is no file of that kind. Does not raise for damaged ones."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(64)
        container = container_of(start)
        if container is None:
            page = start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"version https://git-lfs"))
            return "other pickle" if page and path.suffix in (".pkl", ".pt", ".pth") else None
        if container == "zip torch.save" and not _is_torch_zip(start):
            return None
        source = Source(file)
        scan = Scan()
        # Also with damage further on: reading the file then says how it is damaged.
        with contextlib.suppress(Exception):
            _first(source, container, scan)
        return classify(scan, container)


def _first(source: Source, container: Container, scan: Scan) -> None:
    if container == "zip torch.save":
        source = Source(Archive(source).read("data.pkl"))
    elif container == "legacy torch.save":
        for _ in range(3):
            Scan().stream(source)
    scan.stream(
        source, limit=_EARLY, decisive=lambda: classify(scan, container) in ("official .pkl", "TensorFlow .pkl")
    )


def classify(scan: Scan, container: Container) -> Format:
    """By the names a pickle asks for, and its dict keys."""
    if NETWORK in scan.names:
        return "official .pkl" if container == "pickle" else "PTI .pt"
    if TENSORFLOW in scan.names:
        return "TensorFlow .pkl"
    if "state_dict" in scan.texts and any(text.startswith(("decoder.", "encoder.")) for text in scan.texts):
        return "encoder .pt"
    if "g_ema" in scan.texts or "input.input" in scan.texts:
        return "rosinality .pt"
    return "other pickle"


def _is_torch_zip(start: bytes) -> bool:
    """By the name of the first entry, which torch.save makes data.pkl in a folder."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    return b"data.pkl" in name or b"/data" in name or not name
