"""`unified models`, `recipes` and `matrix`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from unified.cli.options import console


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
) -> None:
    """List the recipes: published methods, with their stages and where they are from.

    Example: unified recipes --family diffusion
    """
    from unified.api import recipes as entries

    for entry in entries(family):
        where = ", ".join(entry.families) or "no installed backbone"
        console.print(f"[bold]{entry.name}[/]  [dim]{where}[/]")
        for line in (entry.stages, entry.summary, entry.cite):
            console.print(f"    {line}", markup=False)


def matrix(
    why: Annotated[bool, typer.Option("--why", help="Say why the combinations that do not run do not.")] = False,
) -> None:
    """Show which spaces and methods go with which backbone. Nothing is loaded for it.

    A recipe is made of such combinations, one per stage; a stage later than the first may also use spaces that
    need another one to be filled before.
    """
    from unified.api import matrix as cells

    found = cells()
    columns = sorted({cell.backbone for cell in found})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("space", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="center")
    reasons = {(cell.space, cell.method, cell.backbone): cell.reason for cell in found}
    before = ""
    for space, method in sorted({(cell.space, cell.method) for cell in found}):
        row = [reasons[space, method, column] for column in columns]
        if not why and all(reason is not None for reason in row):
            continue
        marks = ["[green]yes[/]" if reason is None else "[dim]·[/]" for reason in row]
        table.add_row(space if space != before else "", method, *marks)
        before = space
    console.print(table)
    if why:
        console.print()
        for reason in sorted({cell.reason for cell in found if cell.reason is not None}):
            console.print(f"[bold]{reason}[/]")
            where = sorted({(c.backbone, c.space, c.method) for c in found if c.reason == reason})
            for backbone in sorted({backbone for backbone, _, _ in where}):
                pairs = ", ".join(f"{space} by {method}" for name, space, method in where if name == backbone)
                console.print(f"  {backbone}: {pairs}", markup=False)
    else:
        console.print("\nCombinations that run nowhere by themselves are left out; --why lists them with the reasons.")
