"""`unified export`: a concept in a format of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli.options import console


def export(
    concept: Annotated[Path, typer.Argument(metavar="CONCEPT", help="A concept file that `unified invert` wrote.")],
    to: Annotated[Path, typer.Option("--to", "-t", help="The file to write; its suffix decides the format.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the model of the concept.")] = None,
    picture: Annotated[
        int, typer.Option(help="Whose codes to write where the format holds one picture, counted from 0.")
    ] = 0,
) -> None:
    """Write a concept in a format that other tools read.

    A StyleGAN2's concept becomes a checkpoint (.pt) with the tuned weights in it, and its styles beside it.

    Example: unified export me.safetensors --to me-generator.pt
    """
    from unified.contract.concept import Concept
    from unified.exporting import export as write
    from unified.loading import load

    read = Concept.load(concept)
    for path in write(load(model or read.backbone), read, to, picture=picture):
        console.print(str(path), markup=False)
