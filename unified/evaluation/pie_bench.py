"""PIE-Bench (Ju et al. 2024, Direct Inversion, section 5): 700 pictures, 10 types of edit, each with a mask.

The data set, as it is published:

    DATA/mapping_file.json       for each picture its path, both prompts, type of edit and mask
    DATA/annotation_images/...   the pictures, 512 x 512

and what is evaluated: GENERATED/<the same path>; of a picture that is wider or higher (several side by side), the
last 512 x 512 pixels are taken, as the published code does.

Preservation is measured outside the mask: both pictures are multiplied by 1 - mask, and all pixels count, so that
a larger mask alone makes these scores better. Scores are means over pictures; where a part is empty, the picture
is left out of that score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.errors import UserError
from unified.evaluation.networks import ImageTextFeatures, VisionTransformer, structure_distance
from unified.evaluation.table import Measured, Result
from unified.images import read_images
from unified.metrics.bootstrap import mean_interval
from unified.metrics.reconstruction import mean_squared_error, psnr
from unified.metrics.score import Score
from unified.metrics.similarity import cosine_matrix

FILE = "mapping_file.json"
SIDE = 512
STRUCTURE, TEXT = "facebook/dino-vitb8", "openai/clip-vit-large-patch14"
EDIT_TYPES = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change colour",
    "change material",
    "change background",
    "change style",
)


@dataclass(frozen=True)
class Edit:
    """One picture and what is asked. mask: [H,W], 1 where the edit belongs. kind: index in EDIT_TYPES."""

    key: str
    source: Path
    edited: Path
    source_prompt: str
    target_prompt: str
    kind: int
    mask: Tensor


@dataclass(frozen=True)
class Networks:
    """perceptual: two stacks of pictures [N,3,H,W] in -1..1 -> LPIPS. Parts that are None are left out."""

    text: ImageTextFeatures | None = None
    structure: VisionTransformer | None = None
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    perceptual_name: str = "lpips-squeeze v0.1"


def decode_mask(runs: Sequence[int], *, side: int = SIDE) -> Tensor:
    """[side,side] of 0 and 1 from (start, length, start, length, ...) in reading order.

    The outermost pixels are set to 1, as in the published code, where annotations of the border are not exact.
    """
    if len(runs) % 2 or any(number < 0 for number in runs):
        raise UserError(f"A mask of {len(runs)} numbers was given; expected pairs of start and length, none below 0.")
    flat = torch.zeros(side * side)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = 1
    mask = flat.view(side, side)
    mask[[0, -1], :] = 1
    mask[:, [0, -1]] = 1
    return mask


def read(data: Path, generated: Path, *, partial: bool = False, side: int = SIDE) -> list[Edit]:
    """The edits with their files. partial: take those that were generated. UserError for what is missing."""
    try:
        rows: dict[str, dict[str, Any]] = json.loads((data / FILE).read_text(encoding="utf-8"))
        edits = [
            Edit(
                key,
                data / "annotation_images" / row["image_path"],
                generated / row["image_path"],
                _plain(row["original_prompt"]),
                _plain(row["editing_prompt"]),
                int(row["editing_type_id"]),
                decode_mask(row["mask"], side=side),
            )
            for key, row in rows.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{data} is not the PIE-Bench data: its {FILE} cannot be read ({error}).") from error
    missing = [edit for edit in edits if not edit.edited.is_file()]
    if len(missing) == len(edits) or (missing and not partial):
        raise UserError(
            f"{len(missing)} of {len(edits)} pictures are not in {generated}, the first is {missing[0].edited}:"
            " generate them, or ask for a partial evaluation (comparable only with others of the same pictures)."
        )
    return [edit for edit in edits if edit.edited.is_file()]


def _plain(prompt: str) -> str:
    """The prompt without the brackets around the edited words."""
    return prompt.replace("[", "").replace("]", "")


def evaluate(
    edits: Sequence[Edit], networks: Networks, *, run: str, done: Callable[[str], None] = lambda key: None
) -> Result:
    """Every score of every picture, averaged, with intervals over pictures."""
    values: dict[str, list[float]] = {}
    for edit in edits:
        side = edit.mask.shape[-1]
        source, edited = read_images(edit.source), _last_square(read_images(edit.edited), side)
        if source.shape[-2:] != (side, side) or edited.shape[-2:] != (side, side):
            raise UserError(
                f"{edit.source} is {tuple(source.shape[-2:])} and {edit.edited} {tuple(edited.shape[-2:])} pixels;"
                f" expected {side} x {side} of both."
            )
        for metric, value in score(source, edited, edit, networks).items():
            values.setdefault(metric, []).append(value)
        done(edit.key)
    names = extractor_names(networks)
    return Result(
        run,
        "PIE-Bench",
        {
            metric: Measured(
                Score(math.fsum(found) / len(found), metric, names[metric], "pictures"),
                mean_interval(found) if len(found) > 1 and all(map(math.isfinite, found)) else None,
                len(found),
            )
            for metric, found in values.items()
        },
    )


def extractor_names(networks: Networks) -> Mapping[str, str]:
    """What each metric is measured with."""
    clip = "" if networks.text is None else f"{networks.text.name}, 100 max(cosine, 0)"
    structure = "" if networks.structure is None else f"{networks.structure.name}, keys, pixels 0-255, side 224"
    masked = "masked with 1 - mask"
    return {
        "structure-distance": structure,
        "psnr-background": f"pixels, {masked}",
        "mse-background": f"pixels, {masked}",
        "ssim-background": f"pixels, {masked}, borders mirrored",
        "lpips-background": f"{networks.perceptual_name}, {masked}",
        "clip-source": clip,
        "clip-whole": clip,
        "clip-edited": f"{clip}, masked",
    }


@torch.no_grad()
def score(source: Tensor, edited: Tensor, edit: Edit, networks: Networks) -> dict[str, float]:
    """Every score of one picture: source and edited [1,3,H,W] in 0..1."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found: dict[str, float] = {}
    outside = 1 - edit.mask
    if networks.structure is not None:
        found["structure-distance"] = float(structure_distance(networks.structure, source, edited))
    if bool(outside.any()):
        a, b = source * outside, edited * outside
        found["psnr-background"] = float(psnr(b, a))
        found["mse-background"] = float(mean_squared_error(b, a))
        # The published values are torchmetrics', which mirrors at the borders.
        similarity = structural_similarity_index_measure(b, a, data_range=1.0)
        found["ssim-background"] = float(similarity)  # type: ignore[arg-type]
        if networks.perceptual is not None:
            found["lpips-background"] = float(networks.perceptual(2 * b - 1, 2 * a - 1))
    if networks.text is not None:
        found["clip-source"] = _clip_score(networks.text, source[0], edit.source_prompt)
        found["clip-whole"] = _clip_score(networks.text, edited[0], edit.target_prompt)
        if bool(edit.mask.any()):
            found["clip-edited"] = _clip_score(networks.text, edited[0] * edit.mask, edit.target_prompt)
    return found


def _clip_score(network: ImageTextFeatures, picture: Tensor, text: str) -> float:
    """100 max(cosine, 0)."""
    cosine = cosine_matrix(network.images([picture]), network.texts([text]))
    return 100 * max(float(cosine), 0.0)


def _last_square(images: Tensor, side: int) -> Tensor:
    """The last side x side pixels of a picture that is not square."""
    height, width = images.shape[-2:]
    return images if height == width else images[..., max(height - side, 0) :, max(width - side, 0) :]
