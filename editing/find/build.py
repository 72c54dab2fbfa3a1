"""Builder of avatars/directions: the directions of avatars/stylegan2 as avatars/attributes sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from editing.direction_file import embedded_file, save_directions
from editing.directions import DEFAULT_METHOD, Direction, Directions
from editing.find.finder import finders
from editing.find.judging import CHANGE_STRENGTH, Judge, effect, scaled_shift
from editing.paths import Path
from editing.styles import gan_of
from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.random import Random
from unified.errors import UserError
from unified.files import write_file
from unified.zoo.training import BuildSettings


def build(settings: BuildSettings) -> None:
    """Find directions by every method that the generator can have, one file each, and write the card.

    `settings.steps` is the number of samples that each method looks at; None: its own.
    """
    from unified.extractors import attributes
    from unified.loading import load
    from unified.progress import Bar

    backbone, judge = load("avatars/stylegan2"), Judge("avatars/attributes", attributes.load())
    found: list[Directions] = []
    missing: list[str] = []
    for method in sorted(finders.names(), key=lambda name: (name != DEFAULT_METHOD, name)):
        finder = finders.get(method)
        if not lacked(backbone, finder.needs):
            rng = Random(settings.seed).child("directions")
            try:
                directions = finder.directions(backbone, judge, samples=settings.steps, rng=rng, progress=Bar())
            except UserError as error:
                missing.append(f"## {method}\n\nNo directions: {error}\n")
                continue
            save_directions(directions, settings.out / embedded_file(method), compact=True)
            found.append(directions)
    tables = [supervised_table(part, effects(backbone, judge, part.every)) for part in found if _supervised(part)]
    tables += [component_table(part) for part in found if not _supervised(part)]
    write_file(settings.out / "card.md", card(backbone, found, [*tables, *missing]).encode())


def _supervised(directions: Directions) -> bool:
    return all("=" in name for name in directions.every)


def effects(backbone: Backbone, judge: Judge, items: Mapping[str, Direction | Path]) -> dict[str, tuple[float, float]]:
    """Direction -> share of 64 samples that show its value as they are, and moved by its strength (else 3)."""
    number, _ = gan_of(backbone).style_shape()
    before = effect(backbone, judge.classifier, None)
    return {
        name: (
            before[name],
            effect(backbone, judge.classifier, scaled_shift(direction, strength_of(direction), number))[name],
        )
        for name, direction in items.items()
    }


def strength_of(direction: Direction | Path) -> float:
    """The direction's own strength, or the one that changes are measured with."""
    own = getattr(direction, "strength", math.nan)
    return own if math.isfinite(own) else CHANGE_STRENGTH


def supervised_table(directions: Directions, effects: Mapping[str, tuple[float, float]]) -> str:
    """Markdown: how well each value's direction shows it."""
    rows = "\n".join(
        f"| {name} | {_percent(d.share)} | {_percent(d.accuracy)} | {100 * effects[name][0]:.0f} % |"
        f" {strength_of(d):g} | {100 * effects[name][1]:.0f} % |"
        for name, d in directions.every.items()
    )
    left_out = "\n".join(f"- {name}: {reason}" for name, reason in directions.left_out.items()) or "- none"
    return f"""## {directions.method}

{finders.get(directions.method).summary}. Data: {directions.data}. Judge: {directions.extractor}.

Share of the samples that show the value, accuracy on samples, and share of 64 other samples that show it
before and after moving by the strength that the file recommends ({CHANGE_STRENGTH:g} where it has none):

| direction | shown | accuracy | before | strength | after |
|---|---|---|---|---|---|
{rows}

Without a direction:

{left_out}
"""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "–"


def component_table(directions: Directions) -> str:
    """Markdown: what each component changes."""
    rows = "\n".join(
        f"| {name} | "
        + (", ".join(f"{value} {change:+.2f}" for value, change in d.changes.items()) or "nothing")
        + " |"
        for name, d in directions.every.items()
    )
    return f"""## {directions.method}

{finders.get(directions.method).summary}. Data: {directions.data}. Judge: {directions.extractor}.

Share of {directions.samples} samples that show a value at strength {CHANGE_STRENGTH:g}, less that at
-{CHANGE_STRENGTH:g}:

| component | changes |
|---|---|
{rows}
"""


def card(backbone: Backbone, found: Sequence[Directions], tables: Sequence[str]) -> str:
    """What a user should know about the directions, in Markdown."""
    tables_text = "\n".join(tables)
    return f"""# avatars/directions

Directions of {backbone.id} (weights {backbone.fingerprint}) along which attributes change, by
{len(found)} methods.

- Strength 1 moves by one standard deviation of the generator's samples along the direction.
- Made by: `unified zoo build avatars/directions`

{tables_text}"""
