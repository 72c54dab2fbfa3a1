"""`unified evaluate`, the published protocols: on a folder of the real data set, with real extractors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.cli.measuring import check_parts, counter, evaluate_folders, model_and_recipe, show
from unified.cli.options import SamplingOption, console, remarks, settings

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of the data set, as it is published.")]
Generated = Annotated[
    list[Path], typer.Argument(metavar="GENERATED...", help="Folders of pictures, one for each run to compare.")
]
Dino = Annotated[str | None, typer.Option(help="DINO weights: a folder or hub id; default: the protocol's own.")]
Clip = Annotated[str | None, typer.Option(help="CLIP weights: a folder or hub id; default: the protocol's own.")]
Partial = Annotated[bool, typer.Option("--partial", help="Measure what there is, though subjects are missing.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the scores to a file, for `unified evaluate table`.")
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="dino, dinov2 or clip: only this extractor; may be repeated.")
]
DataMasks = Annotated[
    Path | None, typer.Option(help="Masks of DATA's pictures: then the foreground alone is compared.")
]
Masks = Annotated[
    list[Path] | None, typer.Option("--masks", help="Masks of a GENERATED folder's pictures; once for each, in order.")
]

_SUBJECTS = "dreambench, dreambench++ or customconcept101"


def dreambench(
    data: Data,
    generated: Generated,
    dino: Dino = None,
    clip: Clip = None,
    only: Only = None,
    data_masks: DataMasks = None,
    masks: Masks = None,
    partial: Partial = False,
    output: Output = None,
) -> None:
    """DreamBench: DINO-I, CLIP-I, CLIP-T of 30 subjects with 25 prompts each.

    DATA is the folder `dataset` of google/dreambooth; GENERATED holds SUBJECT/PROMPT/*.png, prompts numbered
    from 00 in its order.

    Example: unified evaluate dreambench dreambooth/dataset generated/textual-inversion generated/dreambooth
    """
    from unified.evaluation import dreambench as module

    evaluate_folders(module, data, generated, {"dino": dino, "clip": clip}, only, data_masks, masks, partial, output)


def dreambench_plus(
    data: Data,
    generated: Generated,
    dino: Dino = None,
    clip: Clip = None,
    dinov2: Annotated[str | None, typer.Option(help="DINOv2 weights: a folder or hub id.")] = None,
    only: Only = None,
    data_masks: DataMasks = None,
    masks: Masks = None,
    partial: Partial = False,
    output: Output = None,
) -> None:
    """DreamBench++, the part without a language model: 150 subjects of one picture, 9 prompts each.

    GENERATED holds CATEGORY-NUMBER/PROMPT/*.png, such as animal-00/03/0.png.
    """
    from unified.evaluation import dreambench_plus as module

    chosen = {"dino": dino, "dinov2": dinov2, "clip": clip}
    evaluate_folders(module, data, generated, chosen, only, data_masks, masks, partial, output)


def customconcept101(
    data: Data,
    generated: Generated,
    dino: Dino = None,
    clip: Clip = None,
    only: Only = None,
    data_masks: DataMasks = None,
    masks: Masks = None,
    partial: Partial = False,
    output: Output = None,
) -> None:
    """CustomConcept101: text alignment (CLIPScore) and image alignment of 101 concepts with 20 prompts each.

    GENERATED holds CONCEPT/PROMPT/*.png, such as pet_dog1/07/0.png.
    """
    from unified.evaluation import custom_concept_101 as module

    evaluate_folders(module, data, generated, {"dino": dino, "clip": clip}, only, data_masks, masks, partial, output)


def pie_bench(
    data: Data,
    generated: Generated,
    dino: Dino = None,
    clip: Clip = None,
    squeezenet: Annotated[
        Path | None, typer.Option(help="SqueezeNet 1.1 weights of LPIPS; default: torchvision's download.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="pixels, dino, lpips or clip: only these scores; may be repeated."),
    ] = None,
    partial: Partial = False,
    output: Output = None,
) -> None:
    """PIE-Bench: structure, what is kept outside the mask, and CLIPScore, of 700 edits.

    GENERATED holds the edited pictures under the paths they have below DATA/annotation_images.
    """
    from unified.evaluation import networks, pie_bench

    parts = set(only or ("pixels", "dino", "lpips", "clip"))
    check_parts(parts, {"pixels", "dino", "lpips", "clip"})
    runs = [(folder, pie_bench.read(data, folder, partial=partial)) for folder in generated]
    chosen = pie_bench.Networks(
        text=networks.load_clip(clip or pie_bench.TEXT) if "clip" in parts else None,
        structure=networks.load_dino(dino or pie_bench.STRUCTURE) if "dino" in parts else None,
        perceptual=networks.load_lpips_squeeze(squeezenet) if "lpips" in parts else None,
    )
    results = [
        pie_bench.evaluate(edits, chosen, run=folder.name, done=counter(folder.name, len(edits)))
        for folder, edits in runs
    ]
    show(results, output)


def distributions(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Folder of real pictures; those below it count.")],
    generated: Generated,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of FID's Inception v3 (pt_inception-2015-12-05); default: download.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of KID's subsets.")] = 0,
    output: Output = None,
) -> None:
    """FID and KID of folders of pictures against real ones, with Inception v3."""
    from unified.evaluation import distributions
    from unified.evaluation import inception as module

    for folder in (real, *generated):
        distributions.pictures_below(folder)
    features = module.load(inception)
    results = [
        distributions.evaluate(real, folder, features, name=features.name, run=folder.name, seed=seed)
        for folder in generated
    ]
    show(results, output)


def face_identity(
    data: Data,
    generated: Generated,
    weights: Annotated[Path, typer.Option(help="Weights of an ArcFace backbone (IResNet, .pth or .safetensors).")],
    partial: Partial = False,
    output: Output = None,
) -> None:
    """Cosine of face embeddings with the person's own, and the share of pictures without a face.

    Beside every picture lies PICTURE.face.json with the five points of its face, or null where a detector found
    none. DATA holds PERSON/*.jpg; GENERATED holds PERSON/PROMPT/*.png.
    """
    from unified.evaluation import arcface, face_identity

    runs = [(folder, face_identity.read(data, folder, partial=partial)) for folder in generated]
    network = arcface.load(weights)
    results = [
        face_identity.evaluate(
            people, lambda faces: arcface.embed(network, faces), name=f"arcface {weights.name}", run=folder.name
        )
        for folder, people in runs
    ]
    show(results, output)


def image_reward(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help=f"Whose prompts: {_SUBJECTS}.")],
    data: Data,
    generated: Generated,
    weights: Annotated[
        str | None, typer.Option(help="ImageReward's weights: a file, or a name it knows; default: v1.0, downloaded.")
    ] = None,
    med_config: Annotated[Path | None, typer.Option(help="Its med_config.json; default: downloaded.")] = None,
    partial: Partial = False,
    output: Output = None,
) -> None:
    """ImageReward of what was made for a data set's prompts; the package image-reward must be installed.

    Example: unified evaluate image-reward dreambench dreambooth/dataset generated/textual-inversion
    """
    from unified.evaluation import image_reward as module

    chosen = _of_subjects(protocol)
    runs = [(folder, chosen.read(data, folder, partial=partial)) for folder in generated]
    reward = module.load(weights or module.WEIGHTS, med_config=med_config)
    results = [
        module.evaluate(
            subjects,
            reward,
            run=folder.name,
            protocol=chosen.PROTOCOL.name,
            done=counter(folder.name, len(subjects)),
        )
        for folder, subjects in runs
    ]
    show(results, output)


def _of_subjects(protocol: str) -> Any:
    """The module of a protocol that gives subjects and prompts. Raises UserError for another name."""
    from unified.evaluation import custom_concept_101, dreambench, dreambench_plus

    modules = {"dreambench": dreambench, "dreambench++": dreambench_plus, "customconcept101": custom_concept_101}
    check_parts({protocol}, set(modules), option="PROTOCOL")
    return modules[protocol]


def generate(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help=f"{_SUBJECTS}.")],
    data: Data,
    run: Annotated[str, typer.Argument(metavar="MODEL:RECIPE", help="What inverts every subject.")],
    output: Annotated[Path, typer.Argument(metavar="GENERATED", help="Folder to write; what is there is kept.")],
    pictures: Annotated[int, typer.Option("--pictures", "-n", help="For each prompt.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of inversions and pictures.")] = 0,
    sampling: SamplingOption = None,
) -> None:
    """Invert every subject of a data set and draw every prompt, in the layout that the protocol reads.

    Example: unified evaluate generate dreambench dreambooth/dataset my-sd-1.5:textual-inversion generated/ti
    """
    import unified
    from unified.evaluation.generate import generate_subjects

    requests_of = _of_subjects(protocol).requests
    model, recipe = model_and_recipe(run)
    requests = requests_of(data)
    generate_subjects(
        requests,
        unified.load(model),
        recipe,
        output,
        pictures=pictures,
        seed=seed,
        sampling=settings(sampling, option="--sampling"),
        say=lambda text: remarks.print(text, markup=False),
    )
    console.print(str(output), markup=False)


def table(
    results: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Files that `unified evaluate ... --output` wrote.")
    ],
) -> None:
    """Put results of several evaluations into one table; refused if they were measured in different ways."""
    from unified.evaluation.table import load_results

    show([result for path in results for result in load_results(path)], None)


COMMANDS: Mapping[str, Callable[..., None]] = {
    "dreambench": dreambench,
    "dreambench++": dreambench_plus,
    "customconcept101": customconcept101,
    "pie-bench": pie_bench,
    "fid": distributions,
    "face-identity": face_identity,
    "image-reward": image_reward,
    "generate": generate,
    "table": table,
}
