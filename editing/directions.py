"""Named directions of a GAN, and reading what an edit asks of them.

A direction found from a classifier belongs to one value of one attribute and is named "attribute=value"
("mouth=smile"); those of an unsupervised method have names of that method's own ("coarse-0"). In front of a
name may stand the method that found it ("sefa:coarse-0"). The unit: strength 1 moves by one standard deviation
of the generator's own samples along the direction, so that strengths mean the same for every direction and
generator; -3 to 3 is what samples span.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editing.latent.interfacegan import conditional
from editing.latent.names import aliases
from editing.paths import Here, Path, Shift
from unified.edits import Asked
from unified.errors import UserError

DEFAULT_METHOD = "interfacegan"
ALIAS_CHANGE = 0.2  # of a value's share: a component that changes one by this much is called by that value


@dataclass(frozen=True)
class Direction:
    """One direction, in w or in the style channels (StyleSpace).

    vector: unit vector [width], or [number, width] with a vector for each layer; with `channels` [sum of
    sizes], the layers' channels side by side. deviation: standard deviation of samples along it: what strength
    1 moves by. accuracy: of its boundary on held-out samples, 0..1. share: of the samples that show the value,
    0..1. layers: first and last layer that it moves, where an edit names none; None: all. changes: value of an
    attribute -> share of samples that show it at strength 3 less that at strength -3, in -1..1, as the
    classifier sees them. channels: layer -> size for a direction of style channels; empty for w. strength: that
    shows the value in most samples and leaves the other attributes alone as far as can be; NaN: not measured.
    """

    vector: Tensor
    deviation: float
    accuracy: float = float("nan")
    share: float = float("nan")
    layers: tuple[int, int] | None = None
    changes: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    strength: float = float("nan")

    def shift(self, number: int) -> Tensor:
        """What strength 1 adds: to styles [number, width], or to the channels of all layers [channels]."""
        step = self.deviation * self.vector
        step = step.expand(number, -1) if step.ndim == 1 and not self.channels else step
        return step if self.layers is None else self.within(step, *self.layers)

    def depth(self, number: int) -> int:
        """How many layers a range can name: those of w, or of the style channels."""
        return len(self.channels) or number

    def within(self, step: Tensor, first: int, last: int) -> Tensor:
        """`step` with all layers but first..last at zero."""
        kept = torch.zeros(self.depth(len(step)), dtype=step.dtype)
        kept[first : last + 1] = 1
        if not self.channels:
            return step * kept.unsqueeze(1)
        return step * kept.repeat_interleave(torch.tensor(list(self.channels.values())))


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of one generator: those of one method, or of several together (see `merged`).

    items: by name. paths: those that depend on the code, by name. backbone, fingerprint: the generator. extractor:
    who judged. samples: how many were judged. left_out: values without a direction, and why. method: how they were
    found. data: what on, in words. by_text: methods that make a direction from the words behind "method:".
    """

    items: Mapping[str, Direction]
    backbone: str
    fingerprint: str
    extractor: str = ""
    samples: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    method: str = DEFAULT_METHOD
    data: str = ""
    by_text: Mapping[str, Callable[[str], Direction | Path]] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)

    @property
    def every(self) -> dict[str, Direction | Path]:
        """Directions and paths, by name."""
        return {**self.items, **self.paths}

    def aliases(self) -> dict[str, tuple[str, float]]:
        """Other names: alias -> (name, sign)."""
        found: dict[str, tuple[str, float]] = {}
        every = self.every
        for method in sorted({name.partition(":")[0] for name in every if ":" in name}):
            own = {name.partition(":")[2]: d for name, d in every.items() if name.startswith(f"{method}:")}
            for alias, (name, sign) in all_aliases(own).items():
                found[f"{method}:{alias}"] = (f"{method}:{name}", sign)
        return {**found, **all_aliases({name: d for name, d in every.items() if ":" not in name})}

    def names(self) -> list[str]:
        """Every name and alias, sorted: what edits can ask for."""
        return sorted({*self.every, *self.aliases()})

    def find(self, name: str) -> tuple[str, float]:
        """The full name that `name` stands for, and the sign. Raises UserError with the nearest names."""
        if name in self.items or name in self.paths:
            return name, 1.0
        known = self.aliases()
        plain = " ".join(name.lower().replace("_", " ").split())
        for each in (name, plain):
            if each in known:
                return known[each]
        near = difflib.get_close_matches(plain, [*self.every, *known], n=5, cutoff=0.5)
        shown = sorted(known or self.every)[:12]
        hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(shown)}, ..."
        raise UserError(f"{self.backbone} has no direction {name!r}; {hint}. `unified edit --list` shows all.")

    def get(self, name: str) -> tuple[Direction | Path, float]:
        """The direction or path that `name` stands for, and the sign. Raises UserError with the nearest names."""
        method, colon, words = name.partition(":")
        if colon and method in self.by_text:
            return self.by_text[method](words.strip()), 1.0
        found, sign = self.find(name)
        return self.every[found], sign

    def resolve(self, asked: str) -> tuple[Direction, float]:
        """The direction that `asked` stands for, made conditional on those behind '|', and the sign."""
        parts = Asked.read(asked)
        direction, sign = self.get(parts.name)
        if isinstance(direction, Path):
            raise UserError(
                f"{parts.name!r} depends on the picture: it is a path, and no direction adds the same to all."
            )
        if not parts.others:
            return direction, sign
        others = []
        for other in parts.others:
            found, _ = self.get(other)
            if isinstance(found, Path):
                raise UserError(f"{asked!r}: a direction cannot leave the path {other!r} alone.")
            others.append(found)
        if any(d.channels != direction.channels for d in others):
            raise UserError(f"{asked!r}: a direction of w and one of style channels cannot leave each other alone.")
        if any(d.vector.ndim != 1 for d in (direction, *others)):
            raise UserError(f"{asked!r}: only directions with one vector for all layers can leave others alone.")
        kept = conditional(direction.vector, *(d.vector for d in others))
        return Direction(kept, direction.deviation, layers=direction.layers, channels=direction.channels), sign

    def shift(self, asked: str, number: int) -> Tensor:
        """What strength 1 of an edit adds: to styles [number, width], or to style channels [channels].

        asked: "NAME", "NAME@4-7" for the layers 4 to 7 alone (from 0), "NAME|OTHER|OTHER" to leave the scores
        of other attributes as they are, or "NAME|OTHER@4-7". Raises UserError for what it cannot read.
        """
        direction, sign = self.resolve(asked)
        span = Asked.read(asked).range(direction.depth(number))
        if span is None:
            return sign * direction.shift(number)
        whole = Direction(direction.vector, direction.deviation, channels=direction.channels)
        return sign * whole.within(whole.shift(number), *span)

    def follow(self, asked: str, strength: float, number: int, here: Here) -> Shift:
        """What an edit along a path adds to the pictures here. asked: as for `shift`."""
        parts = Asked.read(asked)
        path, sign = self.get(parts.name)
        assert isinstance(path, Path)
        others = [self.get(other)[0] for other in parts.others]
        return path.shift(here, sign * strength, keep=others, span=parts.range(path.depth(number)))

    def total(self, edits: Mapping[str, float], number: int, here: Here | None = None) -> Shift | None:
        """What all edits together add; None for none but zeros.

        The order in which the edits are given does not matter, to the last bit: each path is followed from the code
        as it is before the edit. here: where paths start. Raises UserError for a path without it.
        """
        bad = [f"{name}={strength}" for name, strength in edits.items() if not math.isfinite(strength)]
        if bad:
            raise UserError(f"The strength of an edit must be a finite number; {', '.join(bad)} was given.")
        styles: list[Tensor] = []
        channels: list[Tensor] = []
        for asked in sorted(edits):
            if here is not None and isinstance(self.get(Asked.read(asked).name)[0], Path):
                part = self.follow(asked, edits[asked], number, here)
            else:
                step = edits[asked] * self.shift(asked, number)
                part = Shift(styles=step) if step.ndim == 2 else Shift(channels=step)
            if edits[asked] != 0:
                styles += [] if part.styles is None else [part.styles]
                channels += [] if part.channels is None else [part.channels]
        return Shift(_sum(styles), _sum(channels)) if styles or channels else None


def _sum(parts: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0) if parts else None


def named_by_change(items: Mapping[str, Direction | Path]) -> dict[str, tuple[str, float]]:
    """The values of the attribute that each component changes most -> (component, sign).

    Of several components with the same value the one that changes it most has the name; values that change
    by less than ALIAS_CHANGE give none. Directions found for a value ("attribute=value") are named already.
    """
    best: dict[str, tuple[float, str]] = {}
    for name, direction in items.items():
        if "=" in name or not direction.changes:
            continue
        changes = direction.changes
        top = max(changes, key=lambda value: abs(changes[value]))
        for value, change in changes.items():
            same = value.partition("=")[0] == top.partition("=")[0]
            if same and abs(change) >= ALIAS_CHANGE and abs(change) > abs(best.get(value, (0.0, ""))[0]):
                best[value] = (change, name)
    return {value: (name, math.copysign(1.0, change)) for value, (change, name) in best.items()}


def all_aliases(items: Mapping[str, Direction | Path]) -> dict[str, tuple[str, float]]:
    """Other names of directions, by the value they were found for or change: alias -> (name, sign)."""
    changed = named_by_change(items)
    short = {alias: (changed[value][0], sign * changed[value][1]) for alias, (value, sign) in aliases(changed).items()}
    return {**short, **changed, **aliases(items)}
