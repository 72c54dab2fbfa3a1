"""The embedded models by name: where their weights lie, how they are loaded, how they were made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified.contract.rates import Rates
from unified.contract.registry import Registry
from unified.errors import UserError

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ZooModel:
    """An embedded model.

    summary: one line. folder: its folder in `WEIGHTS`. backbone: registered backbone it is loaded as, or "" for
    what is no generator. load: "module:function" taking (folder, id). build: "module:function" taking
    BuildSettings. needs: models that must be built first. category: class word of what it draws. rates: learning
    rates of recipes by name, one for all stages or one for each, where the recipe's own are too small: they are those
    of the papers, for networks a hundred times as large. people: names of two words that its text encoder knows people
    by, where it does not know the well-known ones.
    """

    name: str
    summary: str
    folder: str
    build: str
    backbone: str = ""
    load: str = ""
    needs: tuple[str, ...] = ()
    category: str = ""
    rates: Mapping[str, Rates] = field(default_factory=dict)
    people: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return WEIGHTS / self.folder

    @property
    def present(self) -> bool:
        return any(self.path.rglob("*.safetensors"))

    def builder(self) -> Callable[..., None]:
        return resolve(self.build)


zoo: Registry[ZooModel] = Registry("embedded model")


def register_model(model: ZooModel) -> None:
    zoo.register(model.name, model)


def resolve(dotted: str) -> Callable[..., Any]:
    """'package.module:function' -> the function."""
    module, _, name = dotted.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def folder_of(name: str) -> Path:
    """The weights folder of an embedded model. Raises UserError if it has not been built."""
    model = zoo.get(name)
    if not model.present:
        raise UserError(
            f"The embedded model {name} has no weights in this installation: build it with `unified zoo build {name}`."
        )
    return model.path
