"""`unified invert` and `generate`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.options import (
    Category,
    Count,
    Name,
    OutputPicture,
    PromptOption,
    SamplingOption,
    SchemeSettings,
    Seed,
    SourceOption,
    console,
    numbers,
    remarks,
    settings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from unified.comparison.references import Pictures
    from unified.contract.backbone import Backbone
    from unified.contract.concept import Concept

ConceptFiles = Annotated[
    list[Path], typer.Argument(metavar="CONCEPT", help="Concept files that `unified invert` wrote.")
]
OptionalConceptFiles = Annotated[
    list[Path] | None, typer.Argument(metavar="[CONCEPT]", help="Concept files that `unified invert` wrote.")
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="An embedded model (see `unified models`), a checkpoint's path, or a hub id."),
]


def invert(
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURES", help="Picture files or folders, or avatarbench/person-01 to -30.")
    ],
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The concept file to write (.safetensors).")],
    recipe: Annotated[str | None, typer.Option(help="See `unified recipes`; default: the model's own.")] = None,
    space: Annotated[str | None, typer.Option(help="Instead of a recipe: spaces, as in 'w > weights'.")] = None,
    method: Annotated[str | None, typer.Option(help="How to fill --space; default: optimize.")] = None,
    steps: Annotated[str | None, typer.Option(help="Steps: one number, or one per stage as in 300,350.")] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rate: one number, or one per stage.")] = None,
    name: Name = "<me>",
    category: Category = "",
    caption: Annotated[list[str] | None, typer.Option(help="Text of a picture; once for each, in their order.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks in the order of the pictures: white is the concept.")
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Cut the face out of each photo first, as `unified align` does.")
    ] = False,
    face: Annotated[int | None, typer.Option(help="With --align: which face, from left to right, from 0.")] = None,
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue an interrupted inversion of the same output.")
    ] = False,
) -> None:
    """Find what a model needs to make these pictures, and write it to a concept file.

    Ctrl-C keeps what was reached: the concept is written, and --resume goes on from there.

    Example: unified invert a.png b.png --model avatars/stylegan2 --recipe pti --output me.safetensors
    """
    from unified.comparison.references import named_pictures
    from unified.inversion import recipe_for
    from unified.loading import load

    given = named_pictures(pictures)
    if align:
        given = aligned_pictures(pictures, face=face, masks=given.masks if masks is None else masks)
    output = output if output.suffix == ".safetensors" else output.with_name(output.name + ".safetensors")
    backbone = load(model)
    options: dict[str, Any] = {
        "recipe": recipe,
        "space": space,
        "method": method,
        "steps": numbers(steps, int, option="--steps"),
        "lr": numbers(lr, float, option="--lr"),
    }
    recipe_for(backbone, **options)
    backbone.reference(given.images, name=name, captions=caption)
    check_output(output)
    checkpoints = output.with_name(f"{output.name}.checkpoints")
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    concept = backbone.invert(
        given.images,
        **options,
        name=name,
        category=category or given.category,
        captions=caption,
        masks=given.masks if masks is None else read_masks(masks),
        seed=seed,
        checkpoints=checkpoints,
    )
    path = concept.save(output)
    interrupted = next((s["stopped"] for s in concept.meta["stages"] if s.get("interrupted")), None)
    if interrupted is not None:
        remarks.print(
            f"{interrupted[0].upper()}{interrupted[1:]}. {path} holds what was reached; run the same command with"
            " --resume to go on.",
            markup=False,
        )
        raise typer.Exit(130)
    shutil.rmtree(checkpoints, ignore_errors=True)
    for number, stage in enumerate(concept.meta["stages"], 1):
        spaces = " & ".join(s["name"] for s in stage["spaces"])
        stopped = f", {stage['stopped']}" if stage.get("stopped") else ""
        remarks.print(f"stage {number}: {spaces}, {stage['seconds']:.1f} s, {stage['peak_mebibytes']} MiB{stopped}")
    error = concept.meta.get("error")
    if error:
        parts = ", ".join(f"{unit} {sum(values) / len(values):.2g}" for unit, values in error.items())
        remarks.print(f"reconstruction error (root mean square): {parts}")
    console.print(str(path), markup=False)


def aligned_pictures(pictures: Sequence[str], *, face: int | None, masks: object) -> Pictures:
    """The faces of photos. Raises UserError for a photo without one, and for masks, which are of whole photos."""
    from unified.comparison.references import Pictures
    from unified.errors import UserError
    from unified.faces.align import align, files_of

    if masks is not None:
        raise UserError(
            "--align cuts photos, and the masks are of whole ones: run `unified align` first, or leave one."
        )
    return Pictures([align(path, face=face).image for path in files_of(pictures)])


def generate(
    concept: ConceptFiles,
    prompt: PromptOption = "",
    source: SourceOption = "",
    output: OutputPicture = Path("out.png"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the model of the concept.")] = None,
    count: Count = None,
    seed: Seed = 0,
    negative_prompt: Annotated[str, typer.Option(help="What not to show, for models that take one.")] = "",
    sampling: SamplingOption = None,
    scheme: Annotated[
        str | None, typer.Option(help="How concept and prompt make pictures; default: what fits.")
    ] = None,
    scheme_settings: SchemeSettings = None,
) -> None:
    """Make pictures with one concept or more.

    Example: unified generate me.safetensors --prompt "a portrait of <me> wearing sunglasses" --output out.png
    """
    concepts = read_concepts(concept)
    backbone = model_of(concepts, model)
    images = backbone.generate(
        concepts,
        prompt=prompt,
        source=source,
        n=count,
        seed=seed,
        negative_prompt=negative_prompt,
        sampling=settings(sampling, option="--sampling"),
        scheme=scheme,
        scheme_settings=settings(scheme_settings, option="--scheme-settings"),
        output="pt",
    )
    write(images, output)


def read_concepts(paths: Sequence[Path]) -> list[Concept]:
    from unified.contract.concept import Concept

    return [Concept.load(path) for path in paths]


def model_of(concepts: Sequence[Concept], model: str | None) -> Backbone:
    """The model that is asked for, else the one of the concepts."""
    from unified.loading import load

    return load(model or concepts[0].backbone)


def read_masks(folder: Path) -> Tensor:
    from unified.comparison.references import square_pictures

    return square_pictures(folder).mean(dim=1, keepdim=True)


def check_output(path: Path) -> None:
    """Raise UserError now, rather than after an hour, if `path` cannot be written."""
    from unified.files import write_file

    probe = path.with_name(f".{path.name}.probe")
    write_file(probe, b"")
    probe.unlink(missing_ok=True)


def write(images: Tensor, output: Path) -> None:
    """One picture, a grid of several, or one file each in a folder."""
    from unified.images import grid, save_image, save_images

    if output.suffix == "" or output.is_dir():
        for path in save_images(images, output):
            console.print(str(path), markup=False)
        return
    console.print(str(save_image(images if len(images) == 1 else grid(images), output)), markup=False)
