"""What a result depends on as JSON values, and keys of results that are kept: equal exactly if all that is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified.contract.backbone import Backbone
from unified.contract.recipe import Recipe, Stage


def recipe_settings(recipe: Recipe, backbone: type[Backbone]) -> dict[str, Any]:
    """Everything that a recipe's result depends on, as JSON values."""
    return {
        "name": recipe.name,
        "stages": [stage_settings(stage, backbone) for stage in recipe.stages],
        "scheme": recipe.scheme,
        "carrier": recipe.carrier,
        "sampling": _plain(recipe.sampling),
    }


def stage_settings(stage: Stage, backbone: type[Backbone]) -> dict[str, Any]:
    """The spaces and the method of a stage, with everything that they are set to, as JSON values."""
    return {
        "spaces": [{"name": space.name, **space.settings()} for space in stage.resolved(backbone)],
        "method": {"name": stage.method.name, **_plain(stage.method)},
    }


def digest(*parts: Any) -> str:
    """A key of JSON values and bytes: equal exactly if they are, 32 hexadecimal digits."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(_plain(part), sort_keys=True).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:32]


def _plain(value: Any) -> Any:
    """JSON values of settings; the same in every process (sets sorted, no addresses)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else type(value).__qualname__
