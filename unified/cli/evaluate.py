"""`unified evaluate`: the measurements behind the tables of the README and the cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unified.cli import protocols
from unified.cli.drag_scores import drags
from unified.cli.edit_scores import edits
from unified.cli.measuring import judges, model_and_recipe
from unified.cli.options import SamplingOption, console, print_numbers, remarks, settings
from unified.cli.own_reference import reference

app = typer.Typer(
    help="Measure: embedded models and recipes on the avatars, folders of pictures by the published protocols.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
for _name, _command in protocols.COMMANDS.items():
    app.command(_name)(_command)
app.command()(edits)
app.command()(drags)
app.command()(reference)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An embedded model, a checkpoint or a hub id.")]


@app.command()
def avatarbench(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL:RECIPE...", help="What to measure; MODEL:category is the prompt alone, not inverted."
        ),
    ],
    people: Annotated[int, typer.Option(help="How many of the 30 held-out people.", min=2, max=30)] = 30,
    prompts: Annotated[int, typer.Option(help="Prompts per person, of 25; 0: reconstruction only.", min=0, max=25)] = 5,
    pictures: Annotated[int, typer.Option(help="Pictures of each person that are inverted, of 5.", min=1, max=5)] = 5,
    together: Annotated[int, typer.Option(help="People inverted in one batch, where the recipe can.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same numbers.")] = 0,
    sampling: SamplingOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results; finished ones are kept.")
    ] = Path("avatarbench"),
    scores_file: Annotated[
        Path | None, typer.Option("--scores", help="Also write the scores to a file, for `unified evaluate table`.")
    ] = None,
) -> None:
    """Invert every held-out person with every recipe, and score: one line a run, means with 95 % intervals.

    Example: unified evaluate avatarbench avatars/stylegan2:pti avatars/stylegan2:image2stylegan
    """
    import unified
    from unified.avatars import benchmark
    from unified.contract.backbone import Backbone
    from unified.contract.keys import digest, recipe_settings
    from unified.evaluation.avatarbench import PersonScores, evaluate_people, result, summarise
    from unified.evaluation.table import save_results
    from unified.files import write_file
    from unified.inversion import recipe_for
    from unified.progress import Bar

    chosen = benchmark.load()[:people]
    sampled = settings(sampling, option="--sampling")
    judged = judges()
    rows = []
    results = []
    loaded: dict[str, Backbone] = {}
    for run in runs:
        model, recipe = model_and_recipe(run)
        if model not in loaded:
            loaded[model] = unified.load(model)
        backbone = loaded[model]
        stem = run.replace("/", "-").replace(":", "-")
        plan = None if recipe == "category" else recipe_for(backbone, recipe=recipe)
        described = None if plan is None else recipe_settings(plan, type(backbone))
        folder = output / f"{stem}-{digest(backbone.fingerprint, described, prompts, pictures, seed, sampled)[:12]}"
        missing = [person for person in chosen if not (folder / f"{person.name}.json").exists()]
        for start in range(0, len(missing), together):
            for scored in evaluate_people(
                backbone,
                plan or "",
                missing[start : start + together],
                judged,
                prompts=prompts,
                pictures=pictures,
                seed=seed,
                sampling=sampled,
                progress=Bar(),
            ):
                write_file(folder / f"{scored.person}.json", json.dumps(scored.values, indent=1).encode())
                remarks.print(f"{run} {scored.person} " + " ".join(f"{k} {v:.3f}" for k, v in scored.values.items()))
        scores = [
            PersonScores(p.name, json.loads((folder / f"{p.name}.json").read_text(encoding="utf-8"))) for p in chosen
        ]
        rows.append((run, summarise(scores)))
        results.append(result(run, scores))
    if scores_file is not None:
        save_results(results, scores_file)
    columns = sorted({column for _, summary in rows for column in summary})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for run, summary in rows:
        table.add_row(run, *(str(summary[c]) if c in summary else "–" for c in columns))
    print_numbers(table)
    console.print(
        f"{len(chosen)} people, {pictures} pictures and {prompts} prompts each; identity: avatars/identity,"
        " attribute: avatars/attributes,"
        " clip-i and clip-t: avatars/clip, lpips-alex: LPIPS v0.1. Mean [95 % bootstrap interval over people].",
        markup=False,
    )


@app.command()
def text(
    model: ModelArgument,
    samples: Annotated[int, typer.Option(help="Requests to draw.", min=10)] = 200,
    seed: Annotated[int, typer.Option(help="Of requests and pictures.")] = 0,
) -> None:
    """How often a text-to-image model draws what it is asked for, read by the attribute classifier."""
    import unified
    from unified.evaluation.text_to_image import attribute_following
    from unified.extractors import attributes

    found = attribute_following(unified.load(model), attributes.load(), samples=samples, seed=seed)
    for name, share in found.by_attribute.items():
        console.print(f"{name:16} {share:6.1%}")
    console.print(f"{'all':16} {found.mean:6.1%}   ({found.samples} samples, judged by {found.extractor})")


@app.command()
def samples(
    model: ModelArgument,
    count: Annotated[int, typer.Option(help="Pictures to draw.", min=300)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the pictures.")] = 0,
) -> None:
    """Frechet distance of random samples to the training pictures, beside that of real pictures to others."""
    import torch

    import unified
    from unified.evaluation.samples import sample_quality
    from unified.metrics.lpips import embedded_lpips

    lpips = embedded_lpips()

    def features(images: torch.Tensor) -> torch.Tensor:
        """AlexNet's last convolution, averaged over space: 256 numbers."""
        with torch.no_grad():
            return lpips.activations(images)[-1].mean((2, 3))

    found = sample_quality(unified.load(model), features, name="alexnet-conv5", samples=count, seed=seed)
    console.print(
        f"Frechet distance ({found.features}, {found.samples} pictures): {found.distance:.2f};"
        f" real against real {found.floor:.2f}"
    )
