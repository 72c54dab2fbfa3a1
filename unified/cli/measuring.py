"""What the commands of `unified evaluate` share: evaluating folders, saying how far it is, showing a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table as Grid

from unified.cli.options import console, print_numbers, remarks
from unified.errors import UserError

if TYPE_CHECKING:
    from unified.evaluation.avatarbench import Judges
    from unified.evaluation.subjects import Protocol, Subject
    from unified.evaluation.table import Result


def model_and_recipe(run: str) -> tuple[str, str]:
    """'avatars/stylegan2:pti' -> its two parts. Raises UserError if there is no colon."""
    model, colon, recipe = run.rpartition(":")
    if not colon:
        raise UserError(f"{run!r} is no run: write MODEL:RECIPE, such as avatars/stylegan2:pti.")
    return model, recipe


def judges() -> Judges:
    """The embedded extractors; CLIP only if its weights are here."""
    from unified.evaluation.avatarbench import Judges
    from unified.extractors import attributes, clip, identity

    embedder = identity.load()
    if not clip.present():
        return Judges(embedder.embed, attributes.load())
    scorer = clip.load()
    return Judges(embedder.embed, attributes.load(), scorer.image_features, scorer.text_features)


def evaluate_folders(
    module: Any,
    data: Path,
    generated: Sequence[Path],
    weights: Mapping[str, str | None],
    only: Sequence[str] | None,
    data_masks: Path | None,
    masks: Sequence[Path] | None,
    partial: bool,
    output: Path | None,
) -> None:
    """A protocol of subjects and prompts: everything is checked before any weights are loaded."""
    from unified.evaluation.networks import load_clip, load_dino
    from unified.evaluation.subjects import evaluate_subjects, mask_reader

    protocol: Protocol = module.PROTOCOL
    parts = only or list(protocol.extractors)
    check_parts(set(parts), set(protocol.extractors))
    if (data_masks is None) != (not masks) or len(masks or generated) != len(generated):
        raise UserError("For the foreground alone give --data-masks, and --masks once for each folder of pictures.")
    runs: list[tuple[Path, list[Subject]]] = [
        (folder, module.read(data, folder, partial=partial)) for folder in generated
    ]
    extractors = {
        part: (load_clip if part == "clip" else load_dino)(weights[part] or protocol.extractors[part]) for part in parts
    }
    results = []
    for number, (folder, subjects) in enumerate(runs):
        reader = None
        if data_masks is not None and masks:
            reader = mask_reader(data, data_masks, folder, masks[number])
        done = counter(folder.name, len(subjects))
        results.append(evaluate_subjects(protocol, subjects, extractors, run=folder.name, masks=reader, done=done))
    show(results, output)


def check_parts(given: set[str], known: set[str], *, option: str = "--only") -> None:
    """Raise UserError for a name that there is none of."""
    if given - known:
        raise UserError(f"{option} {sorted(given - known)[0]} was given; there are {', '.join(sorted(known))}.")


def counter(run: str, count: int) -> Callable[[str], None]:
    """Says on standard error how far a run has come."""
    seen = 0

    def done(name: str) -> None:
        nonlocal seen
        seen += 1
        remarks.print(f"{run}: {seen} of {count}, {name}", markup=False)

    return done


def show(results: Sequence[Result], output: Path | None) -> None:
    """Write the results to a file if asked, and print them as one table with how each column was measured."""
    from unified.evaluation.table import save_results, tabulate

    if output is not None:  # first: results of hours are kept, whatever they can be put into one table with
        save_results(results, output)
    found = tabulate(results)
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("run", no_wrap=True)
    for metric in found.columns:
        grid.add_column(metric, justify="right")
    for run, row in found.rows:
        grid.add_row(run, *(row.get(metric, "–") for metric in found.columns))
    print_numbers(grid)
    for column in found.columns.values():
        console.print(column, markup=False)
    if any(each.interval for result in results for each in result.scores.values()):
        console.print("Mean [95 % bootstrap interval over subjects].", markup=False)
