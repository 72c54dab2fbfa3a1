"""Registries: how the contract finds backbones, spaces, methods, schemes and recipes without naming any."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from unified.errors import UserError

T = TypeVar("T")

_GROUP = "unified.plugins"
_loaded = False


def load_plugins() -> None:
    """Import every module named by the entry points of group `unified.plugins`; importing registers."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for entry in sorted(importlib.metadata.entry_points(group=_GROUP), key=lambda e: e.name):
        entry.load()


class Registry(Generic[T]):
    """Named things of one sort."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        known = self._items.get(name)
        if known is not None and known is not item:
            raise ValueError(f"{self.sort} {name!r} is registered already")
        self._items[name] = item
        return item

    def decorate(self, name: str) -> Callable[[T], T]:
        return lambda item: self.register(name, item)

    def get(self, name: str) -> T:
        load_plugins()
        if name not in self._items:
            near = difflib.get_close_matches(name, self._items, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(sorted(self._items))}"
            raise UserError(f"There is no {self.sort} named {name!r}; {hint}.")
        return self._items[name]

    def names(self) -> list[str]:
        load_plugins()
        return sorted(self._items)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        load_plugins()
        return iter(sorted(self._items.items()))

    def __contains__(self, name: str) -> bool:
        load_plugins()
        return name in self._items
