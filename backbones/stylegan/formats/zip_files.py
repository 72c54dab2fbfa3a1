"""Files of torch.save since 1.6: a zip archive of `data.pkl` and one uncompressed entry per storage."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Any

from backbones.stylegan.formats.errors import UnsafeFileError, damaged
from backbones.stylegan.formats.machine import run
from backbones.stylegan.formats.source import Source
from backbones.stylegan.formats.storages import storage_of
from backbones.stylegan.formats.values import Storage

_LARGEST_DIRECTORY = 2**21  # bytes: about 30 000 entries; checkpoints have up to 2 000


class Archive:
    """The entries of the zip file in a source. Nothing is extracted; names that lead outside are refused.

    Raises UnsafeFileError for compressed entries (they could unfold to any size), entries that overlap, and
    damage.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        source.largest = _LARGEST_DIRECTORY
        try:
            self._zip = zipfile.ZipFile(source)
            self._entries = self._checked(self._zip.infolist())
        except UnsafeFileError:
            raise
        except Exception as error:  # zipfile lets through what its struct and text decoding raise
            raise damaged(f"its zip directory cannot be read, the end of the file may be missing ({error})") from None
        finally:
            source.largest = None
        found = [name for name in self._entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise damaged("it is a zip file but not one of torch.save")
        self._folder = found[0][: -len("data.pkl")]

    def _checked(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        total = 0
        for entry in entries:
            parts = entry.filename.replace("\\", "/").split("/")
            if (
                ".." in parts
                or entry.filename.startswith(("/", "\\"))
                or ":" in parts[0]
                or "\0" in entry.orig_filename
            ):
                raise damaged(f"its entry {entry.filename[:100]!r} leads outside the archive")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise damaged(f"its entry {entry.filename[:100]!r} is compressed, which torch.save never does")
            if entry.flag_bits & 1:
                raise damaged(f"its entry {entry.filename[:100]!r} is encrypted")
            total += entry.file_size
        if total > self.source.size:
            raise damaged("its entries overlap or are cut off")
        found = {entry.filename: entry for entry in entries}
        if len(found) != len(entries):
            raise damaged("it holds two entries of one name")
        return found

    def size(self, name: str) -> int:
        return self._entry(name).file_size

    def read(self, name: str) -> bytes:
        """The bytes of an entry, compared with its checksum."""
        entry = self._entry(name)
        try:
            return self._zip.read(entry)
        except UnsafeFileError:
            raise
        except Exception as error:
            raise damaged(f"its entry {entry.filename[:100]!r} cannot be read ({str(error)[:100]})") from None

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._entries[self._folder + name]
        except KeyError:
            raise damaged(f"its entry {name[:100]!r} is missing") from None

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._entries


def read_zip(source: Source, names: Callable[[bool], dict[str, Any]], *, shapes: bool = False) -> Any:
    """The object of the archive. shapes: storages are not read."""
    archive = Archive(source)
    if "byteorder" in archive and archive.read("byteorder").strip() != b"little":
        raise damaged("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        storage = storage_of(storages, pid)
        if storage.size is None:
            name = f"data/{pid[2]}"
            storage.size = archive.size(name)
            if storage.size != storage.wanted * storage.dtype.itemsize:
                raise damaged("a storage has another size than announced")
            if not shapes:
                storage.data = bytearray(archive.read(name))
        return storage

    return run(Source(archive.read("data.pkl"), source.budget), names(False), persistent=persistent)
