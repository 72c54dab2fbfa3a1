"""Tell the user when a folder of theirs hides one of our packages with a common name."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterable
from pathlib import Path

OURS = ("backbones", "inversion", "editing")


def shadowed(names: Iterable[str] = OURS) -> dict[str, str]:
    """Package name -> the folder or file that Python would import in place of ours.

    Ours stand beside the folder `unified`. A package that is found nowhere is not shadowed and not listed.
    """
    home = Path(__file__).resolve().parent.parent
    strangers = {}
    for name in names:
        place = _place(name)
        if place is not None and place.resolve() != (home / name).resolve():
            strangers[name] = str(place)
    return strangers


def _place(name: str) -> Path | None:
    """Where `import name` leads: the package's folder, or the file of a single module."""
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__spec__", None) is not None:
        found = module.__spec__
    else:
        found = importlib.machinery.PathFinder.find_spec(name)
        if found is None:
            # An editable installation may find packages by a hook of its own, and that leads to ours.
            return None
    assert found is not None
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    return Path(found.origin) if found.origin else None


def check() -> None:
    """Raise ImportError naming the folders in the way."""
    strangers = shadowed()
    if strangers:
        listed = ", ".join(f"'{name}' is found at {place}" for name, place in strangers.items())
        raise ImportError(
            f"unified needs its own packages {', '.join(OURS)}, but {listed}. "
            "Rename that folder or file, or start Python from another folder."
        )
