"""Options that several commands share, and reading `name=value`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from unified.errors import UserError

if TYPE_CHECKING:
    from unified.contract.target import Drag

#: Progress and remarks go to standard error, results to standard output.
console = Console(highlight=False, soft_wrap=True)
remarks = Console(stderr=True, highlight=False, soft_wrap=True)


def print_numbers(table: Table) -> None:
    """Print a table at its own width: a number that is cut off, as rich does at 80 columns in a pipe, says nothing."""
    width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(highlight=False, width=width).print(table)


Name = Annotated[str, typer.Option(help="What stands for the concept in prompts.")]
Category = Annotated[str, typer.Option(help="Class word of the concept, such as person; some models know their own.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine, same result.")]
SamplingOption = Annotated[
    list[str] | None,
    typer.Option("--sampling", metavar="NAME=VALUE", help="A setting of the model's sampler, such as steps=30."),
]
SchemeSettings = Annotated[
    list[str] | None,
    typer.Option("--scheme-settings", metavar="NAME=VALUE", help="A setting of the scheme; may be repeated."),
]
PromptOption = Annotated[
    str, typer.Option(help="What to show; the concept's name says where it goes, as in 'a portrait of <me>'.")
]
SourceOption = Annotated[
    str, typer.Option(help="What the pictures show as they are, for schemes that edit from it to the prompt.")
]
Count = Annotated[int | None, typer.Option("-n", "--count", help="How many pictures.", min=1, max=1000)]
OutputPicture = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="A picture file (several pictures become a grid), or a folder/ for one file each."
    ),
]


def settings(pairs: Sequence[str] | None, *, option: str) -> dict[str, Any]:
    """['steps=30', 'guidance=4.5'] -> {'steps': 30, 'guidance': 4.5}. Text that is no number stays text."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        # The last "=": names of edits hold one themselves ("mouth=smile=2").
        name, equals, value = pair.rpartition("=")
        if not equals or not name.strip():
            raise UserError(f"{option} {pair!r} was given; write name=value, such as {option} steps=30.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def strengths(pairs: Sequence[str] | None) -> dict[str, float]:
    """['smile=2', 'mouth=smile=1.5'] -> {'smile': 2.0, 'mouth=smile': 1.5}."""
    found = {}
    for name, value in settings(pairs, option="--set").items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"--set {name}={value} was given; the strength must be a number, such as --set {name}=2.")
        found[name] = float(value)
    return found


def numbers(text: str | None, kind: type[int] | type[float], *, option: str) -> Any:
    """'300' -> 300; '300,350' -> [300, 350], one for each stage; None stays None."""
    if text is None:
        return None
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option} {text!r} was given; give one number for all stages, or one per stage as in {option} 300,350."
        ) from None
    if any(value <= 0 for value in values):
        raise UserError(f"{option} {text!r} was given; it must be larger than 0.")
    return values[0] if len(values) == 1 else values


def drags(texts: Sequence[str] | None) -> tuple[Drag, ...]:
    """['10,20:14,20'] -> the drag of the point 10,20 to 14,20."""
    from unified.contract.target import Drag

    found = []
    for text in texts or ():
        try:
            start, goal = (tuple(float(value) for value in point.split(",")) for point in text.split(":"))
            (x, y), (to_x, to_y) = start, goal
        except ValueError:
            raise UserError(f"--drag {text!r} was given; write from:to in pixels, as in --drag 10,20:14,20.") from None
        found.append(Drag((x, y), (to_x, to_y)))
    return tuple(found)
