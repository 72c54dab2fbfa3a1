"""`unified evaluate edits`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from unified.cli.measuring import judges, model_and_recipe
from unified.cli.options import console, print_numbers, remarks

if TYPE_CHECKING:
    from unified.evaluation.edits import Summary


def edits(
    runs: Annotated[
        list[str], typer.Argument(metavar="MODEL[:RECIPE]...", help="What to invert people with, and edit them in.")
    ],
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE[=VALUE]",
            help="What the edits are for; may be repeated. Default: smiles, glasses, hair colour and facial hair.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="interfacegan, centres, ...; may be repeated. Default: all that know it."),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Of every edit. Default: each direction's own, or 3 where none is known.")
    ] = None,
    away: Annotated[
        bool,
        typer.Option("--away", help="Compose each edit with the opposite one of the value shown: pink +5 & black -4."),
    ] = False,
    multiple: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FACTOR",
            help="Of the strengths; if repeated, tried in turn until the value shows, as with a slider. Default: 1.",
        ),
    ] = None,
    people: Annotated[int, typer.Option(help="How many of the 30 held-out people.", min=2, max=30)] = 30,
    steps: Annotated[int | None, typer.Option(help="Of the inversion, instead of the recipe's.", min=1)] = None,
    together: Annotated[int, typer.Option(help="People inverted in one batch, where the recipe can.", min=1)] = 10,
    each: Annotated[bool, typer.Option("--each", help="A line for each value, not for each attribute.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same numbers.")] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the inverted people; those there are kept (take another after training an encoder again).",
        ),
    ] = Path("avatarbench-edits"),
    scores_file: Annotated[
        Path | None, typer.Option("--scores", help="Also write the scores to a file, for `unified evaluate table`.")
    ] = None,
) -> None:
    """Edit every held-out person along named directions: is the value there, is all else kept, is it the person?

    Example: unified evaluate edits avatars/stylegan2:image2stylegan --by interfacegan --by centres

    Example: unified evaluate edits avatars/stylegan2:e4e avatars/stylegan2:image2stylegan --value glasses
    """
    import torch

    import unified
    from unified.avatars import benchmark
    from unified.evaluation.edits import PROTOCOL, VALUES, chosen_edits, evaluate_edits, results, summarise
    from unified.evaluation.inverted import inverted
    from unified.evaluation.table import save_results
    from unified.progress import Bar

    chosen = benchmark.load()[:people]
    judged = judges()
    stored, tables = [], []
    for run in runs:
        model, recipe = model_and_recipe(run) if ":" in run else (run, "")
        backbone = unified.load(model)
        wanted = chosen_edits(
            backbone, value or VALUES, judged.attributes.vocabulary, methods=by or (), strength=strength
        )
        recipe = recipe or backbone.default_recipe
        concepts = inverted(
            backbone,
            recipe,
            chosen,
            output,
            steps=steps,
            together=together,
            seed=seed,
            progress=Bar(),
            say=lambda text: remarks.print(text, markup=False),
        )
        originals = torch.cat([backbone.reference(person.images[:1]).images for person in chosen])
        attributes = sorted({edit.value.partition("=")[0] for edit in wanted})
        opposed = chosen_edits(backbone, attributes, judged.attributes.vocabulary, methods=by or (), strength=strength)
        scores = evaluate_edits(
            backbone,
            concepts,
            originals,
            wanted,
            judged,
            opposed=opposed if away else (),
            multiples=multiple or (1.0,),
            seed=seed,
            progress=Bar(),
        )
        found = summarise(scores, each=each)
        asked = ", composed with the opposite of the value shown" if away else ""
        asked += "" if strength is None else f", strength {strength:g}"
        asked += f", times {', '.join(f'{each:g}' for each in multiple)} until it shows" if multiple else ""
        stored += results(f"{model}:{recipe}", summarise(scores), protocol=PROTOCOL + asked)
        tables.append(_table(f"{model}:{recipe}", found))
    if scores_file is not None:
        save_results(stored, scores_file)
    for table in tables:
        print_numbers(table)
    console.print(
        f"{len(chosen)} people, one picture each. Changed: shows the value; kept: share of the other attributes that"
        " read as before the edit (avatars/attributes; eyes behind dark lenses do not count); who shows the value"
        " already is left out. Identity: cosine to the original (avatars/identity), before and after the edit."
        " Mean [95 % bootstrap interval over people].",
        markup=False,
    )


def _table(run: str, summaries: Sequence[Summary]) -> Table:
    table = Table(title=run, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("by", "edit"):
        table.add_column(column, no_wrap=True)
    for column in ("edits", "people", "changed", "kept", "identity before", "identity"):
        table.add_column(column, justify="right")
    for summary in summaries:
        found = [summary.scores[name] for name in ("changed", "kept", "identity before", "identity")]
        numbers = [
            f"{m.score.value:.2f}" + (f" [{m.interval.low:.2f}, {m.interval.high:.2f}]" if m.interval else "")
            for m in found
        ]
        table.add_row(summary.method, summary.target, str(summary.edits), str(summary.people), *numbers)
    return table
