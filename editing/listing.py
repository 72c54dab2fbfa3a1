"""What `unified edit --list` shows: the directions of a backbone, by name, method, extractor and data."""

from __future__ import annotations

import math
from collections.abc import Mapping

from editing.by_text import by_text, text_methods
from editing.direction_file import known_directions
from editing.directions import Direction, Directions, named_by_change
from editing.paths import Path
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.directions_hook import ValueEdit, direction_sources

_SHOWN = 3  # changes of a component that a line names
_STRENGTH = 3.0  # where no file says what shows a value: the end of what samples span


class AttributeDirections:
    """The directions in the backbone's direction files, and what is made from words."""

    def directions(self, backbone: Backbone) -> dict[str, str]:
        if not isinstance(backbone, Renders):
            return {}
        found: dict[str, str] = {}
        for part in known_directions(backbone):
            names: dict[str, str] = {}
            for value, (name, sign) in named_by_change(part.every).items():
                text = f"{part.method}:{value}" + ("" if sign > 0 else " (backwards)")
                names[name] = f"{names[name]}, {text}" if name in names else text
            for name, direction in part.every.items():
                key = name if "=" in name and name not in found else f"{part.method}:{name}"
                found[key] = about(direction, part, called=names.get(name, ""))
        for name in by_text(backbone):
            found[f"{name}:TEXT"] = text_methods.get(name).about(backbone)
        return found

    def towards(self, backbone: Backbone, wanted: Mapping[str, str]) -> list[ValueEdit]:
        if not isinstance(backbone, Renders):
            return []
        found: list[ValueEdit] = []
        for part in known_directions(backbone):
            named = {name: (name, 1.0) for name in part.every} | named_by_change(part.every)
            for value in wanted:
                if value in named:
                    name, sign = named[value]
                    own = getattr(part.every[name], "strength", math.nan)
                    strength = sign * (own if math.isfinite(own) else _STRENGTH)
                    found.append(ValueEdit(part.method, value, f"{part.method}:{name}", strength))
        for method in by_text(backbone):
            strength = text_methods.get(method).strength
            found += [ValueEdit(method, v, f"{method}:{words}", strength) for v, words in wanted.items()]
        return found


def about(direction: Direction | Path, of: Directions, *, called: str = "") -> str:
    """One line on a direction. called: the attribute values that a component is named by."""
    parts = [f"accuracy {direction.accuracy:.0%}"] if math.isfinite(direction.accuracy) else []
    if math.isfinite(direction.share):
        parts.append(f"shown by {direction.share:.0%} of samples")
    if direction.changes:
        largest = sorted(direction.changes.items(), key=lambda pair: -abs(pair[1]))[:_SHOWN]
        parts.append("changes " + ", ".join(f"{value} {change:+.0%}" for value, change in largest))
    if isinstance(direction, Direction) and math.isfinite(direction.strength):
        parts.append(f"strength {direction.strength:g} shows it")
    if called:
        parts.append(f"also called {called}")
    if isinstance(direction, Path):
        parts.append("depends on the picture")
        parts += [f"layers {', '.join(map(str, direction.layers))}"] if direction.layers else []
    elif direction.layers is not None:
        parts.append(f"layers {direction.layers[0]}-{direction.layers[1]}")
    return "; ".join((*parts, f"by {of.method}, judged by {of.extractor or '?'} on {of.data or 'unknown data'}"))


direction_sources.register("attribute directions", AttributeDirections())
