"""`unified models`, `recipes` and `matrix`: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from unified.catalog.entries import Status
from unified.cli.options import console
from unified.errors import UserError

if TYPE_CHECKING:
    from unified.catalog.entries import Entry


def models() -> None:
    """List the embedded models: generators by family, then the extractors that score them."""
    from unified.api import models as entries

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "family", "here", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "model")
    for entry in sorted(entries(), key=lambda entry: (not entry.family, entry.family, entry.name)):
        table.add_row(entry.name, entry.family or "–", "yes" if entry.present else "no", entry.summary)
    console.print(table)
    if not all(entry.present for entry in entries()):
        console.print("\nThose that are not here are made by `unified zoo build NAME`.", markup=False)


def recipes(
    family: Annotated[str | None, typer.Option(help="Only those that run in this family, such as gan.")] = None,
    survey: Annotated[
        bool, typer.Option("--survey", help="All methods of the survey: what runs here, what could, what does not.")
    ] = False,
    search: Annotated[
        str, typer.Option(help="With --survey: words that must all stand in the entry, such as 'face encoder'.")
    ] = "",
    status: Annotated[Status | None, typer.Option(help="With --survey: only the entries of this status.")] = None,
) -> None:
    """List the recipes: published methods, with their stages and where they are from.

    Example: unified recipes --family diffusion

    Example: unified recipes --survey --search "face encoder"
    """
    if survey:
        return _survey(family, search, status)
    if search or status is not None:
        raise UserError("--search and --status choose among the survey's methods: give --survey with them.")
    from unified.api import recipes as entries

    for entry in entries(family):
        where = ", ".join(entry.families) or "no installed backbone"
        console.print(f"[bold]{entry.name}[/]  [dim]{where}[/]")
        for line in (entry.stages, entry.summary, entry.cite):
            console.print(f"    {line}", markup=False)


_DETAILED = 12  # up to so many entries, all that is known of each is shown


def _survey(family: str | None, search: str, status: Status | None) -> None:
    from unified.catalog.entries import find
    from unified.catalog.status import listed

    found = [listed(entry) for entry in find(family=family, search=search)]
    shown = [each for each in found if status in (None, each.status)]
    rows = [(e.entry.name, str(e.entry.year), e.entry.family, e.entry.space, e.entry.method) for e in shown]
    headings = ("method", "year", "family", "space", "how it is filled", "status")
    widths = [max(map(len, column)) for column in zip(headings[:5], *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [f"{cell or '–':{width}}" for cell, width in zip(cells, widths, strict=False)]
        return "  ".join((*padded, cells[-1])).rstrip()

    if shown:
        console.print(line(headings), markup=False, style="bold")
    for each, row in zip(shown, rows, strict=True):
        console.print(line((*row, each.status)), markup=False, style=_STYLES[each.status])
        details = _details(each.entry) if len(shown) <= _DETAILED else []
        for text in (*details, *each.commands):
            console.print(f"    {text}", markup=False)
    counts = ", ".join(f"{sum(e.status is each for e in found)} {each}" for each in Status)
    console.print(f"\n{len(found)} of the survey: {counts}." if found else "Nothing of the survey matches.")


_STYLES = {"runs": "green", "expressible": "yellow", "not yet": "dim"}


def _details(entry: Entry) -> list[str]:
    """What is known of an entry beside its line, a fact a line."""
    facts = {
        "concepts": entry.category,
        "encoder": entry.encoder,
        "adapter": entry.adapter,
        "backbone": entry.backbone,
        "training data": entry.training_data,
    }
    return [entry.reference, *(f"{name}: {value}" for name, value in facts.items() if value)]


def matrix(
    why: Annotated[bool, typer.Option("--why", help="Say why the combinations that do not run do not.")] = False,
) -> None:
    """Show which spaces and methods go with which backbone. Nothing is loaded for it.

    A recipe is made of such combinations, one per stage; a stage later than the first may also use spaces that
    need another one to be filled before.
    """
    from unified.api import matrix as cells

    found = cells()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("space", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("runs on", overflow="fold")
    where: dict[tuple[str, str], list[str]] = {}
    for cell in found:
        where.setdefault((cell.space, cell.method), []).extend([cell.backbone] if cell.reason is None else [])
    before = ""
    for (space, method), able in sorted(where.items()):
        if able:
            table.add_row(space if space != before else "", method, ", ".join(sorted(able)))
            before = space
    console.print(table)
    if why:
        console.print()
        for reason in sorted({cell.reason for cell in found if cell.reason is not None}):
            console.print(f"[bold]{reason}[/]")
            refused = sorted({(c.backbone, c.space, c.method) for c in found if c.reason == reason})
            for backbone in sorted({backbone for backbone, _, _ in refused}):
                pairs = ", ".join(f"{space} by {method}" for name, space, method in refused if name == backbone)
                console.print(f"  {backbone}: {pairs}", markup=False)
    else:
        console.print("\nCombinations that run nowhere by themselves are left out; --why lists them with the reasons.")
