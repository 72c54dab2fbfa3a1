"""`unified`: the commands, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape

from unified.cli import align, compare, concepts, edit, evaluate, export, inspect, listing, merge, study, zoo
from unified.cli import app as web
from unified.errors import UserError

app = typer.Typer(
    name="unified",
    help="Invert pictures of one thing into GANs, diffusion models and autoregressive models, generate with what"
    " was found, and compare.\n\n"
    "What is there to work with: [bold]unified models[/], [bold]unified recipes[/], [bold]unified matrix[/].\n\n"
    "Start here:\n\n"
    "    unified invert a.png b.png c.png --model avatars/stylegan2 --output me.safetensors\n\n"
    "    unified generate me.safetensors --prompt 'a portrait of <me> wearing sunglasses' --output out.png\n\n"
    "    unified compare a.png b.png c.png --output report",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("invert")(concepts.invert)
app.command("generate")(concepts.generate)
app.command("edit")(edit.edit)
app.command("export")(export.export)
app.command("merge")(merge.merge)
app.command("compare")(compare.compare)
app.command("align")(align.align)
app.command("paste")(align.paste)
app.command("app")(web.app)
app.command("recipes")(listing.recipes)
app.command("matrix")(listing.matrix)
app.add_typer(inspect.app, name="models")
app.add_typer(zoo.app, name="zoo")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(study.app, name="study")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 something to put right (one sentence on stderr), 130 interrupted."""
    try:
        app(args=None if arguments is None else list(arguments))
    except UserError as error:
        _fail(str(error))
    except MemoryError:
        _fail("The memory is not enough: lower the number of pictures, take a smaller model, or close other programs.")
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        _fail("The memory is not enough: lower the number of pictures (-n), or take a smaller model.")


def _fail(sentence: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]Error:[/] {escape(sentence)}")
    sys.exit(2)
