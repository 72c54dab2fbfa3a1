"""Streams of torch.save from before it wrote zip files: nested in pickles for one storage, and whole files.

Five pickles (magic number, protocol, machine, object, keys), then for each key the number of elements as int64
and the raw values. Read by hand rather than by torch.load, so that what is announced is compared with the bytes
that are there before anything is allocated.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from backbones.stylegan.formats.errors import damaged
from backbones.stylegan.formats.machine import run
from backbones.stylegan.formats.source import Gap, Source
from backbones.stylegan.formats.values import STORAGE_TYPES, Marker, Storage

MAGIC = 0x1950A86A20F9469CFC6C
START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of such a stream: the pickle of the magic number."""

_PROTOCOL = 1001


def storage_of(storages: dict[str, Storage], pid: Any) -> Storage:
    """The storage of a persistent id ("storage", type, key, location, elements[, view])."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or type(pid[0]) is not str or pid[0] != "storage":
        raise damaged("an object is stored outside the file")
    kind, key, elements = pid[1], pid[2], pid[4]
    if not isinstance(kind, Marker) or kind.value is None or type(key) is not str or any(pid[5:]):
        raise damaged("a storage of an unknown type")
    storage = storages.setdefault(key, Storage(kind.value))
    if storage.dtype != kind.value or type(elements) is not int:
        raise damaged("a storage is described in two ways")
    storage.wanted = elements
    return storage


def read_stream(source: Source, names: dict[str, Any], storages: dict[str, Storage], *, shapes: bool = False) -> Any:
    """The object of a stream, with `storages` filled. Tensors in it need a second run, see :func:`read_legacy`."""

    def persistent(pid: Any) -> Storage:
        return storage_of(storages, pid)

    for expected in (MAGIC, _PROTOCOL):
        value = run(source, {})
        if type(value) is not int or value != expected:
            raise damaged("a storage is in an unknown format")
    run(source, {})
    result = run(source, names, persistent=persistent)
    keys = run(source, {})
    if not isinstance(keys, list):
        raise damaged("a storage has no keys")
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or storage.size is not None:
            raise damaged("a storage is missing or there twice")
        elements = int.from_bytes(source.exactly(8), "little", signed=True)
        size = elements * storage.dtype.itemsize
        if elements < 0 or size > source.left:
            raise damaged(f"it ends early, a storage of {elements} elements is cut off")
        if shapes:
            source.seek(size, os.SEEK_CUR)
        else:
            storage.data = source.large(size)
        storage.size = size
    return result


def read_nested(data: Any, source: Source, *, shapes: bool) -> Storage:
    """torch.storage._load_from_bytes: the one storage in `data`, which comes from `source`.

    A stream nested in it is refused.
    """
    if not isinstance(data, bytes | bytearray | Gap):
        raise damaged("a storage is not stored as bytes")
    stream = source.window(data.position, data.size) if isinstance(data, Gap) else Source(data, source.budget)
    names = {f"torch.{name}": Marker(name, dtype) for name, dtype in STORAGE_TYPES.items()}
    result = read_stream(stream, names, {}, shapes=shapes)
    if not isinstance(result, Storage) or result.size is None:
        raise damaged("a storage holds something else")
    return result


def read_legacy(source: Source, names: Callable[[bool], dict[str, Any]], *, shapes: bool = False) -> Any:
    """A whole file: the values come after the object that needs them, so the object is read twice.

    names(incomplete) gives the table for the first (True) and the second pass.
    """
    start = source.tell()
    storages: dict[str, Storage] = {}
    read_stream(source, names(True), storages, shapes=shapes)
    source.seek(start)
    for _ in range(3):
        run(source, {})
    return run(source, names(False), persistent=lambda pid: storage_of(storages, pid))
