"""`unified study`: a blinded user study from a comparison, and what people answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unified.cli.options import console, print_numbers

app = typer.Typer(
    help="Ask people: a page of pairs of pictures from a comparison, and the count of their answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def make(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="The --output folder of `unified compare`.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the page and the key into.")],
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--references",
            help="The pictures that were compared (files, a folder, or avatarbench/person-03): then it is also asked"
            " which picture shows the same. May be repeated.",
        ),
    ] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="Only these runs, by title; may be repeated.")] = None,
    trials: Annotated[int | None, typer.Option(help="How many pairs to show, shared evenly.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of sides and order: the same seed, the same study.")] = 0,
) -> None:
    """Write OUT/study.html to send out and OUT/key.json to keep to yourself: it says which run made which picture.

    Example: unified study make report study --references avatarbench/person-03 --trials 40
    """
    from unified.comparison.references import named_pictures, square_pictures
    from unified.study.make import KEY, PAGE, make_study
    from unified.study.material import read_report

    pictures = None
    if references:
        named = named_pictures(references[0] if len(references) == 1 else references)
        pictures = square_pictures(named.images)
    material = read_report(report, references=pictures, runs=run)
    made = make_study(material, output, seed=seed, limit=trials)
    console.print(f"{len(made)} pairs of {len(material.runs)} runs: {output / PAGE}", markup=False)
    console.print(f"The key, which says who made what: {output / KEY}. Do not send it out.", markup=False)


@app.command()
def tally(
    study: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that `unified study make` wrote.")],
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="The files that participants saved.")],
    confidence: Annotated[float, typer.Option(help="Of the intervals, such as 0.95.")] = 0.95,
) -> None:
    """Count the answers: how often each run was preferred to each other one, with exact binomial intervals.

    Example: unified study tally study results-*.json
    """
    from unified.study.tally import tally as count

    found = count(study, results, confidence=confidence)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("question", "run", "preferred to"):
        table.add_column(heading)
    for heading in ("share", f"{confidence:.0%} interval", "of", "by chance"):
        table.add_column(heading, justify="right")
    for row in (*found.pairs, *found.overall):
        table.add_row(
            row.question,
            row.run,
            row.other or "all others",
            f"{row.share:.1%}",
            f"{row.low:.1%} – {row.high:.1%}",
            str(row.count),
            f"{row.chance:.3f}",
        )
    print_numbers(table)
    console.print(
        f"{found.answers} answers of {found.participants} participant{'s' if found.participants != 1 else ''};"
        " Clopper-Pearson intervals and exact binomial tests, which take answers as independent.",
        markup=False,
    )
