"""`unified evaluate drags`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from unified.cli.measuring import judges
from unified.cli.options import SchemeSettings, console, print_numbers, remarks, settings


def drags(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GAN that draws avatars of 64 pixels.")],
    trials: Annotated[int, typer.Option(help="Mouth corners to drag, each in another sample.", min=2)] = 20,
    mask: Annotated[bool, typer.Option("--mask", help="Let the lower face alone change.")] = False,
    seed: Annotated[int, typer.Option(help="Of the goals.")] = 0,
    scheme_settings: SchemeSettings = None,
) -> None:
    """Drag mouth corners of samples to where other expressions have them, and say how many arrive within 2 pixels.

    Twice: where the method says that its point is, and where the corner is then to be seen.

    Example: unified evaluate drags avatars/stylegan2 --trials 20
    """
    import unified
    from unified.evaluation import drags as protocol

    backbone, judged = unified.load(model), judges()
    changed = settings(scheme_settings, option="--scheme-settings")
    movable = protocol.lower_face() if mask else None
    outcomes = []
    for trial in protocol.trials(backbone, judged.attributes, trials, seed=seed):
        found = protocol.run_trial(backbone, trial, judged.identity, movable=movable, settings=changed)
        outcomes.append(found)
        remarks.print(
            f"sample {trial.seed}: {trial.start} to {trial.goal} ({trial.mouth}): tracked {found.tracked}, seen"
            f" {found.seen}, {found.steps} steps",
            markup=False,
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", no_wrap=True)
    table.add_column("mean [95 %]", justify="right")
    for name, interval in protocol.summary(outcomes).items():
        table.add_row(name, str(interval))
    print_numbers(table)
    console.print(
        f"{len(outcomes)} drags of at least {protocol.LEAST_WAY:g} pixels; arrived: within {protocol.WITHIN:g} of"
        " the goal. Seen: the corner that `mouth_corners` finds in the dragged picture.",
        markup=False,
    )
