"""`unified zoo`: the embedded models, how they were made, and making them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from unified.cli.options import console, remarks
from unified.errors import UserError

app = typer.Typer(
    help="The embedded models: list them, read their cards, train them again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A name that `unified zoo list` shows.")]


@app.command("list")
def list_() -> None:
    """List the embedded models with their size, and what each needs to be trained."""
    from unified.zoo.registry import zoo

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("needs", overflow="fold")
    table.add_column("what it is", overflow="fold")
    for name, model in zoo:
        size = sum(file.stat().st_size for file in model.path.rglob("*") if file.is_file()) if model.present else 0
        table.add_row(name, f"{size / 1e6:.1f} MB" if size else "–", ", ".join(model.needs), model.summary)
    console.print(table)


@app.command()
def card(name: ModelName) -> None:
    """Show a model's card: data, architecture, scores, and the command that made it."""
    from unified.zoo.registry import zoo

    path = zoo.get(name).path / "card.md"
    if not path.is_file():
        raise UserError(f"{name} has no card in this installation: build it with `unified zoo build {name}`.")
    console.print(Markdown(path.read_text(encoding="utf-8")))


@app.command()
def build(
    name: ModelName,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long, and keep what was reached.", min=0)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; default: the model's own.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures per step; default: the model's own.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue from the checkpoint in the work folder.")
    ] = True,
    work: Annotated[Path | None, typer.Option(help="Folder of checkpoints; default: in the cache folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the weights go; default: into this installation.")] = None,
) -> None:
    """Train an embedded model and export its weights. Hours on two cores, minutes on a GPU.

    Call it again after an interruption: it goes on from the last checkpoint. On several GPUs:
    accelerate launch -m unified.cli zoo build NAME

    Example: unified zoo build avatars/identity --minutes 10
    """
    from unified.files import cache_folder
    from unified.zoo.registry import zoo
    from unified.zoo.training import BuildSettings

    model = zoo.get(name)
    absent = [needed for needed in model.needs if not zoo.get(needed).present]
    if absent:
        raise UserError(
            f"{name} is trained with {', '.join(absent)}, which is not here: run `unified zoo build {absent[0]}` first."
        )
    settings = BuildSettings(
        out=output or model.path,
        work=work or cache_folder() / "training" / model.folder,
        steps=steps,
        batch=batch,
        minutes=minutes,
        resume=resume,
        seed=seed,
    )
    try:
        model.builder()(settings)
    except KeyboardInterrupt:
        remarks.print(f"Interrupted. The last checkpoint is in {settings.work}; run the same command again to go on.")
        raise typer.Exit(130) from None
    console.print(str(settings.out), markup=False)
