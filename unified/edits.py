"""An edit: named directions with strengths, that can be written down, composed and stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.errors import UserError
from unified.files import write_file

FORMAT = 1
_STEP = re.compile(r"^(?P<name>.+?)[\s=]+(?P<strength>[+-]?\s*\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)$")


@dataclass(frozen=True)
class Asked:
    """The parts of "NAME|OTHER|OTHER@4-7": name, directions to leave alone, layers as written ("4-7" or "")."""

    name: str
    others: tuple[str, ...] = ()
    layers: str = ""

    @staticmethod
    def read(text: str) -> Asked:
        """Raises UserError if there is no name, or an '@' without layers."""
        rest, at, layers = text.rpartition("@") if "@" in text else (text, "", "")
        name, *others = (part.strip() for part in rest.split("|"))
        if not name or not all(others):
            raise UserError(f"{text!r} names no direction: write NAME, NAME|OTHER or NAME@first-last.")
        if at and not layers.strip():
            layers = "?"  # an '@' that names no layers is refused where the number of layers is known
        return Asked(name, tuple(others), layers.strip())

    def range(self, depth: int) -> tuple[int, int] | None:
        """First and last layer, from 0; None for all. Raises UserError if they are out of bounds."""
        if not self.layers:
            return None
        match = re.fullmatch(r"(\d+)\s*(?:-\s*(\d+))?", self.layers)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < depth:
            raise UserError(f"{self}: write layers as '@first-last' within 0-{depth - 1}, such as '@4-7'.")
        return first, last

    def __str__(self) -> str:
        return "|".join((self.name, *self.others)) + (f"@{self.layers}" if self.layers else "")


@dataclass(frozen=True)
class Step:
    """One direction of an edit.

    direction: its name, "mouth=smile", "smile", "sefa:coarse-0" or "styleclip:a person with glasses".
    strength: 1 is one standard deviation of samples. layers: first and last that move; None: all that the
    direction moves. keep: directions whose scores stay as they are (conditional editing).
    """

    direction: str
    strength: float
    layers: tuple[int, int] | None = None
    keep: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """As `generate(..., edits={asked: strength})` takes it: "NAME|OTHER@4-7"."""
        layers = "" if self.layers is None else f"{self.layers[0]}-{self.layers[1]}"
        return str(Asked(self.direction, self.keep, layers))

    @staticmethod
    def of(asked: str, strength: float) -> Step:
        """The step that `edits={asked: strength}` asks for. Raises UserError for what cannot be read."""
        if not math.isfinite(strength):
            raise UserError(f"The strength of an edit must be a finite number; {asked}={strength} was given.")
        parts = Asked.read(asked)
        return Step(parts.name, float(strength), parts.range(10_000), parts.others)


@dataclass(frozen=True)
class Edit:
    """Steps that are applied together; their order does not matter."""

    steps: tuple[Step, ...]

    @staticmethod
    def of(edits: Mapping[str, float]) -> Edit:
        """The edit that `generate(..., edits=edits)` makes."""
        return Edit(tuple(Step.of(asked, strength) for asked, strength in edits.items()))

    @staticmethod
    def read(text: str) -> Edit:
        """'smile +2 & age@4-7 -1' -> the edit; "smile=2" means the same. Raises UserError if it cannot be read."""
        steps = []
        for part in text.split("&"):
            found = _STEP.match(part.strip())
            if found is None:
                raise UserError(f"{part.strip()!r} is no edit: write NAME STRENGTH, several joined by '&': 'smile +2'.")
            steps.append(Step.of(found["name"].strip(), float(found["strength"].replace(" ", ""))))
        return Edit(tuple(steps))

    @property
    def strengths(self) -> dict[str, float]:
        """As `generate(..., edits=strengths)` takes it; steps along the same direction are added."""
        found: dict[str, float] = {}
        for step in self.steps:
            found[step.asked] = found.get(step.asked, 0.0) + step.strength
        return found

    def scaled(self, factor: float) -> Edit:
        """All strengths times `factor`; -1 undoes the edit."""
        return Edit(tuple(Step(s.direction, factor * s.strength, s.layers, s.keep) for s in self.steps))

    def __and__(self, other: Edit) -> Edit:
        """Both edits together."""
        return Edit((*self.steps, *other.steps))

    def __str__(self) -> str:
        return " & ".join(f"{step.asked} {step.strength:+g}" for step in self.steps)

    def save(self, path: str | Path) -> Path:
        """Write the edit as JSON; returns its path."""
        steps = [
            {
                "direction": step.direction,
                "strength": step.strength,
                **({} if step.layers is None else {"layers": list(step.layers)}),
                **({"keep": list(step.keep)} if step.keep else {}),
            }
            for step in self.steps
        ]
        return write_file(path, (json.dumps({"unified-edit": FORMAT, "steps": steps}, indent=1) + "\n").encode())

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read a stored edit. Raises UserError if it is missing, damaged or too new."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            newer = int(data["unified-edit"]) > FORMAT
            steps = tuple(_step(each) for each in data["steps"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no stored edit ({error!r}): `unified edit --save-edit` writes one.") from None
        if newer:
            raise UserError(f"{path} has edit format {data['unified-edit']}; this version reads {FORMAT}: upgrade.")
        return Edit(steps)


def _step(each: Mapping[str, Any]) -> Step:
    layers = each.get("layers")
    if not isinstance(each["direction"], str):
        raise ValueError("a direction must be a name")
    step = Step(
        each["direction"],
        float(each["strength"]),
        None if layers is None else (int(layers[0]), int(layers[1])),
        tuple(str(other) for other in each.get("keep", ())),
    )
    return Step.of(step.asked, step.strength)  # checked as typed ones are


def strengths_of(edits: Mapping[str, float] | Edit | None) -> dict[str, float]:
    """What `Target.edits` holds, of whatever edits are given as."""
    return edits.strengths if isinstance(edits, Edit) else dict(edits or {})
