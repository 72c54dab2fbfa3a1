"""`unified models`, and `unified models inspect FILE`: what is in a checkpoint, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli import listing
from unified.cli.options import console
from unified.inspection import inspect as look

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
    help="List the embedded models; or look into a checkpoint file with [bold]inspect[/].",
)


@app.callback()
def models(context: typer.Context) -> None:
    """List the embedded models: generators by family, then the extractors that score them.

    What a checkpoint file holds: unified models inspect FILE
    """
    if context.invoked_subcommand is None:
        listing.models()


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint, such as a .pkl, .pt or .safetensors file.")],
) -> None:
    """Print format, architecture, parameters, and every name that a pickle asks for. Nothing of it is loaded.

    Example: unified models inspect ffhq.pkl
    """
    # Text of the file is in it: no markup.
    console.print(str(look(file)), markup=False)
