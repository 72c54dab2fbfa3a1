"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from unified.errors import UserError


def cache_folder() -> Path:
    """Where what can be made again lies: UNIFIED_CACHE, or ~/.cache/unified."""
    root = os.environ.get("UNIFIED_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "unified"


def write_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, making its folder if needed; see :func:`write_files`."""
    return write_files({path: data})[0]


def write_files(contents: Mapping[str | os.PathLike[str], bytes]) -> list[Path]:
    """Write all of `contents` (path -> bytes) or none of it: to temporary names first, then renamed.

    Folders are made as needed. A full disk, a read-only folder or anything else that stops the writing raises
    UserError, and then the temporary files are gone and files that were there before are as they were.
    """
    finished = [Path(path) for path in contents]
    unfinished = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in finished]
    try:
        for path, part, data in zip(finished, unfinished, contents.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # some file systems report a full disk only here
        for path, part in zip(finished, unfinished, strict=True):
            os.replace(part, path)
    except OSError as error:
        for part in unfinished:
            with contextlib.suppress(OSError):
                part.unlink()
        raise UserError(explain(error, path)) from error
    return finished


def explain(error: OSError, path: Path) -> str:
    """One sentence on why `path` could not be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full; free some space or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: {path.parent} is read-only; choose a folder you may write to"
    if error.errno == errno.EISDIR:
        return f"{path} could not be written: it is a folder; give the name of a file"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} could not be written: a part of its path is a file, not a folder; choose another path"
    return f"{path} could not be written: {error.strerror or error}; choose another path"
