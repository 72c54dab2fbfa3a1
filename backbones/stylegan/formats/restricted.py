"""Reading checkpoints without running anything of them.

An official .pkl asks for a function of `torch_utils.persistence` that executes source text stored in the
file, and for `torch.storage._load_from_bytes`, which unpickles without limits. Here every global is looked
up in a fixed table of inert replacements (:mod:`allowed`); a name that is not in it is refused by name. The
interpreter (:mod:`machine`) knows only the opcodes that data needs, and memory and work are bounded (:mod:`source`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Literal

from torch import Tensor

from backbones.stylegan.formats import allowed, storages, zip_files
from backbones.stylegan.formats.errors import UnsafeFileError, damaged
from backbones.stylegan.formats.machine import run
from backbones.stylegan.formats.scan import looks_like_pickle
from backbones.stylegan.formats.source import Source
from backbones.stylegan.formats.values import Array, Stub
from unified.errors import UserError

__all__ = ["MAX_DEPTH", "Container", "Stub", "UnsafeFileError", "container_of", "plain", "read_content", "read_pickle"]

MAX_DEPTH = 64
"""Stubs within stubs, and values within values, deeper than this are refused."""

MAX_VALUES = 200_000
"""Values that one walk through nested containers may meet."""

Container = Literal["pickle", "legacy torch.save", "zip torch.save"]
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def container_of(start: bytes) -> Container | None:
    """What kind of file begins with these (at least 16) bytes; None: none of them."""
    if start.startswith(storages.START):
        return "legacy torch.save"
    if start.startswith(b"PK\x03\x04"):
        return "zip torch.save"
    return "pickle" if start[:2] in _PICKLE_STARTS else None


def read_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain data, tensors and networks (as :class:`Stub`).

    Raises UnsafeFileError, and nothing else, for whatever the file holds; memory stays within a small
    multiple of the file's size. Tensors share memory with each other where the file says so.
    """
    source = Source(file)
    return run(source, allowed.names(source))


def read_content(path: str | Path, *, shapes: bool = False) -> Any:
    """The object in a .pkl or .pt file of any kind, as :func:`read_pickle`.

    shapes: tensors are on the meta device; of a zip file, no storage is read. Raises UserError if the file is not
    there or of another kind, UnsafeFileError (a UserError) if it is hostile or damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(0)
            container = container_of(start) or ("pickle" if looks_like_pickle(start[:2]) else None)
            return _read(Source(file), container, start, path, shapes)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from None
    except MemoryError:
        raise damaged("it needs more memory than there is") from None


def _read(source: Source, container: Container | None, start: bytes, path: str | Path, shapes: bool) -> Any:
    def names(incomplete: bool) -> dict[str, Any]:
        return allowed.names(source, shapes=shapes, incomplete=incomplete)

    if container == "pickle":
        return run(source, names(False), skip=shapes)
    if container == "legacy torch.save":
        return storages.read_legacy(source, names, shapes=shapes)
    if container == "zip torch.save":
        return zip_files.read_zip(source, names, shapes=shapes)
    raise UserError(f"{path} is {_other(start)}; expected a .pkl or .pt file of a StyleGAN.")


def _other(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "empty"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page: the download was answered by one, perhaps asking for confirmation; download again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull`"
    return "neither a pickle nor a file of torch.save"


class Walk:
    """Counts the values met while walking through content: a few nested lists can stand for billions."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def step(self, depth: int) -> None:
        self.left -= 1
        if depth > MAX_DEPTH or self.left < 0:
            raise damaged("values are nested too deeply or too often")


def plain(value: Any, *, depth: int = 0, walk: Walk | None = None) -> Any:
    """Arrays under construction replaced by the arrays, in nested dicts, lists and tuples."""
    walk = walk or Walk()
    walk.step(depth)
    if isinstance(value, Array):
        if value.value is None:
            if value.shape is None:
                raise damaged("a numpy array has no data")
            return value.tensor()
        return value.value
    if isinstance(value, dict):
        return {key: plain(item, depth=depth + 1, walk=walk) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item, depth=depth + 1, walk=walk) for item in value)
    return value


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors of a dict of text keys; what else it holds is left out. {} if it is no dict."""
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if type(key) is str and isinstance(item, Tensor)}
