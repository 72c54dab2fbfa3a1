"""`unified evaluate reference`."""

from __future__ import annotations

from typing import Annotated

import typer

from unified.cli.measuring import judges, model_and_recipe
from unified.cli.options import console


def reference(
    run: Annotated[str, typer.Argument(metavar="MODEL:RECIPE", help="What makes concepts of people.")],
    people: Annotated[int, typer.Option(help="How many of the 30 held-out people.", min=2, max=30)] = 30,
    pictures: Annotated[int, typer.Option(help="Of each person, shown to the recipe; the others judge.", min=1)] = 2,
    draws: Annotated[int, typer.Option(help="Pictures drawn from each concept.", min=1)] = 4,
    together: Annotated[int, typer.Option(help="People inverted in one batch, where the recipe can.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same numbers.")] = 0,
) -> None:
    """Does the own reference give more of a person than somebody else's reference does?

    Example: unified evaluate reference avatars/emu3:in-context
    """
    import unified
    from unified.avatars import benchmark
    from unified.evaluation.own_reference import compared, likeness
    from unified.progress import Bar

    model, recipe = model_and_recipe(run)
    chosen = benchmark.load()[:people]
    found = compared(
        likeness(
            unified.load(model),
            recipe,
            chosen,
            judges().identity,
            pictures=pictures,
            draws=draws,
            together=together,
            seed=seed,
            progress=Bar(),
        )
    )
    console.print(f"own reference beats the next person's  {found.beats_next}", markup=False)
    console.print(f"own reference beats everyone else's    {found.beats_all}", markup=False)
    console.print(f"identity with the own reference        {found.own}", markup=False)
    console.print(f"identity with others' references       {found.others}", markup=False)
    console.print(
        f"{people} people, {pictures} pictures shown, {draws} drawn, compared with those not shown; avatars/identity."
        " Mean [95 % bootstrap interval over people].",
        markup=False,
    )
