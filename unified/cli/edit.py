"""`unified edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.concepts import OptionalConceptFiles, check_output, model_of, read_concepts, write
from unified.cli.options import (
    Count,
    OutputPicture,
    PromptOption,
    SchemeSettings,
    Seed,
    SourceOption,
    console,
    drags,
    remarks,
    settings,
    strengths,
)
from unified.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from unified.contract.backbone import Backbone
    from unified.contract.concept import Concept


def edit(
    concept: OptionalConceptFiles = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=STRENGTH",
            help="An edit, such as smile=2, smile@4-7=2 for some layers, or 'smile|glasses=2' to leave glasses alone;"
            " may be repeated.",
        ),
    ] = None,
    stored: Annotated[list[Path] | None, typer.Option("--edit", help="A stored edit; may be repeated.")] = None,
    save_edit: Annotated[Path | None, typer.Option("--save-edit", help="Store all --set and --edit (.json).")] = None,
    drag: Annotated[
        list[str] | None,
        typer.Option("--drag", metavar="X,Y:X,Y", help="Move a point of the picture, in pixels; may be repeated."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="With --drag: a picture, white where it may change.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="A picture of the domain that the model's pictures shall come to.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the edits that the concept's model knows.")] = False,
    find: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Find directions of the model first: interfacegan, sefa, ganspace, ..."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="With --find: random samples to look at.", min=1)] = None,
    prompt: PromptOption = "",
    source: SourceOption = "",
    scheme: Annotated[str | None, typer.Option(help="How the edit is made; default: what fits.")] = None,
    scheme_settings: SchemeSettings = None,
    output: OutputPicture = Path("out.png"),
    save: Annotated[Path | None, typer.Option(help="Write the edited concept too (.safetensors).")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the model of the concept.")] = None,
    count: Count = None,
    seed: Seed = 0,
) -> None:
    """Change an inverted picture along named directions, by dragging points, or by a text.

    Example: unified edit me.safetensors --set mouth=smile=2 --output smiling.png

    Example: unified edit me.safetensors --drag 26,40:23,38 --save dragged.safetensors

    Example: unified edit --model my-stylegan.pkl --find interfacegan --list
    """
    from unified.edits import Edit

    wanted = Edit.of(strengths(change))
    for path in stored or ():
        wanted = wanted & Edit.load(path)
    points = drags(drag)
    concepts = read_concepts(concept or [])
    asked = bool(wanted.steps or points or prompt or picture)
    if not (asked or list_ or find is not None):
        raise UserError(
            "There is no edit: give --set NAME=STRENGTH, --drag, --prompt or --picture, or --list to see the names."
        )
    if mask is not None and not points:
        raise UserError("--mask says where dragging may change the picture: give --drag with it.")
    if not concepts and model is None:
        raise UserError("Neither a concept nor a model was given: name a concept file, or --model.")
    backbone = model_of(concepts, model)
    if find is not None:
        _find(backbone, find, samples)
    if list_:
        return _list(backbone)
    if not asked:
        return
    if save_edit is not None:
        if not wanted.steps:
            raise UserError("--save-edit stores named edits: give some with --set.")
        remarks.print(str(wanted.save(save_edit)), markup=False)
    request: dict[str, Any] = {
        "prompt": prompt,
        "source": source,
        "edits": wanted,
        "drags": points,
        "movable": None if mask is None else _mask(mask, backbone.resolution),
        "pictures": picture,
        "scheme": scheme,
        "scheme_settings": settings(scheme_settings, option="--scheme-settings"),
    }
    if save is None:
        images = backbone.generate(concepts, **request, n=count, seed=seed, output="pt")
    else:
        check_output(save)
        found = backbone.edit(concepts, **request, n=count, seed=seed)
        images = backbone.generate(found, n=count, seed=seed, output="pt")
        console.print(str(_together(found).save(save)), markup=False)
    write(images, output)


def _find(backbone: Backbone, method: str, samples: int | None) -> None:
    from unified.directions_hook import find_directions
    from unified.progress import Bar

    remarks.print(find_directions(backbone, method, samples=samples, progress=Bar()), markup=False)


def _list(backbone: Backbone) -> None:
    from unified.directions_hook import direction_finders, directions_of

    found = directions_of(backbone)
    if not found:
        methods = ", ".join(direction_finders.names())
        raise UserError(f"No named edits are known for {backbone.id}: --find METHOD finds some, by {methods}.")
    for name, about in found.items():
        console.print(f"{name:32} {about}", markup=False)


def _mask(path: Path, side: int) -> Tensor:
    from unified.images import read_images

    return read_images(path, size=side).mean(dim=1)[0]


def _together(concepts: list[Concept]) -> Concept:
    """What an edit left, as one concept: its codes, and those that the edit added."""
    first, *others = concepts
    if any(c.weight != first.weight for c in others):
        raise UserError("Concepts of different weights cannot be saved as one: edit one at a time.")
    return first.with_codes([code for each in concepts for code in each.codes])
