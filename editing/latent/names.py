"""Names that people use for "attribute=value" directions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.captions import phrase
from unified.errors import UserError

_LEADING = re.compile(r"^(?:with|wearing|in|on|looking)\s+(?:(?:an?|the)\s+)?")
_WITHOUT = re.compile(r"^(?:without|with no)\s+(?:(?:an?|the)\s+)?")


def aliases(names: Iterable[str]) -> dict[str, tuple[str, float]]:
    """Short names for "attribute=value" names: alias -> (full name, sign).

    Made by rule: the value, where one attribute alone has it ("smile"); the caption's wording and its last
    words ("with blonde hair", "blonde hair"); for an absence, what is absent with the opposite sign
    ("glasses" is away from "glasses=none"). What two directions would claim is nobody's alias.
    """
    claims: dict[str, set[tuple[str, float]]] = {}
    full = [name for name in names if "=" in name]
    # A value whose attribute has no direction here still is another attribute's value.
    known = {*full, *(f"{attribute}={value}" for attribute, all_ in ATTRIBUTES.items() for value in all_)}
    values = [name.partition("=")[2] for name in known]
    for name in full:
        attribute, _, value = name.partition("=")
        own: list[tuple[str, float]] = []
        if value == "none":
            own.append((attribute.replace("_", " "), -1.0))
        elif values.count(value) == 1:
            own.append((value, 1.0))
        wording = _wording(attribute, value)
        if wording:
            own.append((wording, 1.0))
            if _WITHOUT.match(wording):
                own.append((_WITHOUT.sub("", wording), -1.0))
            else:
                own.append((_LEADING.sub("", wording), 1.0))
        for alias, sign in own:
            claims.setdefault(alias, set()).add((name, sign))
    return {alias: next(iter(found)) for alias, found in sorted(claims.items()) if len(found) == 1}


def _wording(attribute: str, value: str) -> str:
    try:
        return phrase(attribute, value)
    except UserError:  # an attribute of another vocabulary than the avatars'
        return ""
