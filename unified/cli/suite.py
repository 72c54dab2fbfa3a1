"""`unified compare --suite`: a published table, measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from unified.cli.measuring import judges, model_and_recipe
from unified.cli.options import console, print_numbers, remarks
from unified.errors import UserError
from unified.evaluation.suite_rows import Probe, Row, measure, pairs
from unified.evaluation.suites import Published, Suite, suites

TOGETHER = 10  # people inverted in one batch, where the recipe can
_SHOWN = {"lpips": 3, "psnr": 1, "identity": 2, "changed": 2, "kept": 2, "identity after": 2}  # decimals


def run_suite(name: str, output: Path, *, runs: Sequence[str], people: int, steps: int | None, seed: int) -> None:
    """Measure the suite's recipes (or `runs`, as MODEL:RECIPE) on `people` held-out people and print the table.

    Concepts are kept in `output`, so an interrupted table goes on. Recipes that cannot run are named and left out.
    """
    import unified
    from unified.avatars import benchmark
    from unified.contract.recipe import runnable
    from unified.inversion import recipe_for
    from unified.progress import Bar

    suite = suites.get(name)
    asked = [model_and_recipe(run) for run in runs]
    models = {model for model, _ in asked} or {suite.model}
    if len(models) > 1:
        raise UserError(f"A suite is measured on one model; {', '.join(sorted(models))} were given in --runs.")
    backbone = unified.load(models.pop())
    chosen = [recipe for _, recipe in asked] or runnable(type(backbone))
    for recipe in chosen:
        recipe_for(backbone, recipe=recipe, steps=None)  # a name that there is none of, before any work
    judged, shown = judges(), benchmark.load()[:people]
    probe = Probe.of(suite, backbone, judged)
    rows: list[Row] = []
    for recipe in chosen:
        try:
            row = measure(
                backbone,
                recipe,
                shown,
                judged,
                probe,
                published=suite.published.get(recipe),
                folder=output,
                steps=steps,
                together=TOGETHER,
                seed=seed,
                progress=Bar(),
                say=lambda text: remarks.print(text, markup=False),
            )
        except UserError as error:
            remarks.print(f"Left out: {recipe}: {error}", markup=False)
            continue
        rows.append(row)
        remarks.print(f"{recipe}: " + ", ".join(f"{key} {value}" for key, value in row.scores.items()), markup=False)
    if not rows:
        raise UserError(f"None of the recipes of {name!r} could be measured: see what was said of each above.")
    rows.sort(key=lambda row: -row.scores["lpips"].mean)
    print_numbers(_table(backbone.id, suite, rows))
    _say(suite, rows, people=len(shown))


def _table(model: str, suite: Suite, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{suite.name}: {model}", title_justify="left", box=None, header_style="bold")
    table.add_column("recipe", no_wrap=True)
    for column in (*_SHOWN, "seconds", "published PSNR", "LPIPS", "identity", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        own = [_interval(row, name, digits) for name, digits in _SHOWN.items()]
        known = row.published or Published("")
        values = (known.psnr, known.lpips, known.identity, known.seconds)
        there = ["–" if value is None else f"{value:g}" for value in values]
        table.add_row(row.recipe, *own, f"{row.seconds:.2g}", *there)
    return table


def _interval(row: Row, name: str, digits: int) -> str:
    if name not in row.scores:
        return "–"
    found = row.scores[name]
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _say(suite: Suite, rows: Sequence[Row], *, people: int) -> None:
    for score in ("lpips", "psnr", "identity"):
        count, turned = pairs(rows, score=score)
        if count:
            other = "; not: " + ", ".join(f"{worse} < {best}" for worse, best in turned) if turned else ""
            agree = f"{count - len(turned)} of {count} pairs as published"
            console.print(f"Order by {score}: {agree}{other}.", markup=False)
    console.print(
        f"{people} people, one picture each, {TOGETHER} in a batch where the recipe can; lpips: LPIPS-Alex, identity:"
        " avatars/identity; edits: "
        f"{', '.join(suite.edits)} by {', '.join(suite.directions)}, composed with the opposite of the value shown"
        " (changed: shows the value, kept: share of the other attributes, identity after: to the original)."
        f" Mean [95 % interval over people]. Published: {suite.source}; for the order, not the values.",
        markup=False,
    )
