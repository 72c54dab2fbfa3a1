"""`unified compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli.options import Category, Name, console, remarks
from unified.errors import UserError


def compare(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(metavar="PICTURES", help="Picture files or folders, or avatarbench/person-01 to -30."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the report, and of what is finished.")
    ] = Path("report"),
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--runs",
            "-r",
            metavar="MODEL:RECIPE,...",
            help="What to compare; MODEL:category is the baseline without the concept. Default: one model per family.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="With the concept's name in it; may be repeated. Default: six."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the pictures, one picture for each, as in 0,1,2.")] = "0",
    name: Name = "<me>",
    category: Category = "",
    caption: Annotated[list[str] | None, typer.Option(help="Text of a picture; once for each, in their order.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of every recipe, for a quick look.", min=1)] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what an earlier call finished, or do all of it again.")
    ] = True,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be read, naming each, and go on.")
    ] = False,
    suite: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Instead, measure a published table again on avatarbench: gan-inversion. Takes --runs and --people.",
        ),
    ] = "",
    people: Annotated[int, typer.Option(help="How many of the 30 held-out people; for --suite.", min=2, max=30)] = 30,
) -> None:
    """Give the same pictures and prompts to several models and recipes, and write a report.

    A finished inversion or picture is never computed twice: call again to go on after an interruption, or
    with more runs, prompts or seeds. Runs follow each other, as one keeps all cores (or the GPU) busy.

    Example: unified compare a.png b.png --runs avatars/stylegan2:pti,avatars/emu3:two-stage --output report

    Example: unified compare avatarbench/person-03 --output report

    Example: unified compare --suite gan-inversion --output suite
    """
    parsed = [part.strip() for text in runs or () for part in text.split(",") if part.strip()]
    numbers = _seeds(seeds)
    if suite:
        if pictures or prompt or caption:
            raise UserError(
                f"--suite {suite} brings its own pictures and edits: leave PICTURES, prompts, captions out."
            )
        from unified.cli.suite import run_suite

        run_suite(suite, output, runs=parsed, people=people, steps=steps, seed=numbers[0])
        return
    if not pictures:
        raise UserError("No pictures were given: name files, folders or avatarbench/person-01, or a --suite.")
    from unified.comparison.compare import compare as run_all

    if skip_broken:
        if caption:
            raise UserError("--skip-broken and --caption were given: captions go by number, so remove broken pictures.")
        pictures = _readable(pictures)
    try:
        report = run_all(
            pictures[0] if len(pictures) == 1 else pictures,
            prompt or None,
            runs=parsed or None,
            seeds=numbers,
            category=category,
            name=name,
            captions=caption,
            steps=steps,
            folder=output,
            resume=resume,
            say=lambda text: remarks.print(text, markup=False),
        )
    except KeyboardInterrupt:
        remarks.print(f"Interrupted. What is finished is kept in {output}; run the same command again to go on.")
        raise typer.Exit(130) from None
    path = report.save(output)
    for result in report.runs:
        if result.error:
            remarks.print(f"{result.title} failed: {result.error}", markup=False)
    console.print(f"The report is {path}", markup=False)


def _readable(pictures: list[str]) -> list[str]:
    """The pictures without those that cannot be read, which are named. UserError if none is left."""
    from unified.images import readable_pictures

    found: list[str] = []
    for given in pictures:
        if not Path(given).exists():  # a person of the benchmark; of a wrong path the comparison says what is wrong
            found.append(given)
            continue
        sound, refused = readable_pictures([given])
        for reason in refused.values():
            remarks.print(f"Left out: {reason}", markup=False)
        found += map(str, sound)
    if not found:
        raise UserError("None of the pictures can be read: give at least one that can.")
    return found


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text!r} was given; write whole numbers with commas between, as in 0,1,2.") from None
