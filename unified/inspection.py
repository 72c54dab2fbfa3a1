"""Looking into a checkpoint file without loading it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unified.contract.registry import Registry
from unified.errors import UserError

#: Each gives a description (printed with str) of the file, or None if it is not of a kind that it knows.
inspectors: Registry[Callable[[Path], object | None]] = Registry("inspector")


def inspect(path: str | Path) -> object:
    """A description of the checkpoint file. Raises UserError if it is not there or of no known kind."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}; give the path of a checkpoint file."
        )
    for _, inspector in inspectors:
        found = inspector(path)
        if found is not None:
            return found
    raise UserError(f"{path} is no checkpoint of a known kind, such as a .pkl, a .pt or a .safetensors file.")
