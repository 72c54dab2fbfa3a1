"""Face identity: cosine of recognition embeddings, and how many pictures show no face.

    DATA/<person>/*.jpg                          reference pictures
    DATA/<person>/prompts.txt                    optional; else one prompt is taken to be asked
    GENERATED/<person>/<prompt>/*.png            prompts numbered from 00

Faces are detected beforehand, by `unified align --points` or another program, whose findings are read from a file
beside each picture, PICTURE.face.json: {"points": [[x, y] of both eyes, the nose, both corners of the mouth]} in
pixels, or {"points": null} where it found none. Each face is moved onto the places that ArcFace (Deng et al. 2019) was
trained with, by the similarity transform of least squares (Umeyama 1991, equations 40-42), cut to 112 x 112.

Embeddings average as in DreamBench: references > images > prompts > people, over the pictures with a face; the
share of pictures without one is a score of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError
from unified.evaluation.subjects import Subject, generated_pictures, present
from unified.evaluation.table import Measured, Result
from unified.images import pictures_in, read_images
from unified.metrics.bootstrap import mean_interval
from unified.metrics.score import Score
from unified.metrics.similarity import FIDELITY_AVERAGING, identity_fidelity

SIDE = 112
#: Where eyes, nose and corners of the mouth are in a face cut to 112 x 112 pixels (x, y), as in ArcFace's data.
PLACES = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
Embed = Callable[[Tensor], Tensor]


def read(data: Path, generated: Path, *, partial: bool = False) -> list[Subject]:
    """The people with their files. partial: take those that were generated. UserError for what is missing."""
    people = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if not people:
        raise UserError(f"{data} holds no folder of a person: expected DATA/<person>/ with pictures.")
    subjects = []
    for name in present(people, generated, partial=partial):
        file = data / name / "prompts.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [""]
        texts = tuple(line.strip() for line in lines if line.strip()) or ("",)
        subjects.append(
            Subject(name, tuple(pictures_in(data / name)), texts, generated_pictures(generated, name, len(texts)))
        )
    return subjects


def read_points(picture: Path) -> Tensor | None:
    """[5,2] of the face in a picture, or None where none was found. Raises UserError if nobody looked."""
    path = picture.with_name(picture.name + ".face.json")
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["points"]
        found = None if points is None else torch.tensor(points, dtype=torch.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): run a face detector over the pictures and write the five points of each"
            ' face there, or {"points": null}.'
        ) from error
    if found is not None and (found.shape != (5, 2) or not bool(torch.isfinite(found).all())):
        raise UserError(f"{path} holds points of shape {tuple(found.shape)}; expected five finite pairs of x and y.")
    return found


def similarity_transform(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(A [2,2], t [2]) of rotation, scale and shift with the least sum of |A x + t - y|^2 over points [N,2].

    Umeyama 1991, equations 40-42. Raises UserError if all points are one.
    """
    mean_x, mean_y = source.mean(0), target.mean(0)
    x, y = source - mean_x, target - mean_y
    variance = x.square().sum() / len(x)
    if min(variance, y.square().sum()) <= 1e-12:
        raise UserError("The five points of a face are all at one place: detect that face again.")
    u, d, v = torch.linalg.svd(y.T @ x / len(x))
    sign = torch.ones(2, dtype=source.dtype)
    if torch.linalg.det(u) * torch.linalg.det(v) < 0:
        sign[-1] = -1  # a rotation, no mirroring
    matrix = (d * sign).sum() / variance * (u * sign) @ v
    return matrix, mean_y - matrix @ mean_x


def cut_face(picture: Tensor, points: Tensor) -> Tensor:
    """[3,112,112] of a picture [3,H,W] whose face has `points` [5,2] in pixels; black beyond its border."""
    places = torch.tensor(PLACES, dtype=torch.float64)
    matrix, shift = similarity_transform(places, points)  # from the cut to the picture
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    at = torch.stack([columns, rows], -1).double() @ matrix.T + shift
    height, width = picture.shape[1:]
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], dtype=torch.float64)
    grid = (at * scale - 1).to(picture.dtype)
    return functional.grid_sample(picture[None], grid[None], mode="bilinear", align_corners=True)[0]


def evaluate(subjects: Sequence[Subject], embed: Embed, *, name: str, run: str) -> Result:
    """Identity and the share of pictures without a face, each with an interval over people.

    embed: faces [N,3,112,112] in 0..1 -> [N,D]. name: of the recognition network. Raises UserError for a person
    without a face in any reference.
    """
    values: list[float] = []
    missing: list[float] = []
    for subject in subjects:
        references = [face for face in map(_face, subject.references) if face is not None]
        if not references:
            raise UserError(f"No reference picture of {subject.name} has a face: give one that has, or leave them out.")
        faces = [[_face(path) for path in paths] for paths in subject.generated]
        value, share = identity_fidelity(
            [_embedded(each, embed) for each in faces],
            [torch.tensor([face is not None for face in each]) for each in faces],
            embed(torch.stack(references)).double(),
        )
        missing.append(share)
        if math.isfinite(value):
            values.append(value)
    if not values:
        raise UserError(f"No generated picture in {run} has a face, so there is no identity to measure.")
    extractor = f"{name}, five points to {SIDE}"
    averaging = f"{FIDELITY_AVERAGING} > people"
    return Result(
        run,
        "face identity",
        {
            "face-identity": _measured(Score(_mean(values), "face-identity", extractor, averaging), values),
            "no-face": _measured(Score(_mean(missing), "no-face", "face detector of the data", averaging), missing),
        },
    )


def _embedded(faces: Sequence[Tensor | None], embed: Embed) -> Tensor:
    """[n,D], with anything in the rows of those without a face."""
    blank = torch.zeros(3, SIDE, SIDE)
    return embed(torch.stack([blank if face is None else face for face in faces])).double()


def _face(path: Path) -> Tensor | None:
    points = read_points(path)
    return None if points is None else cut_face(read_images(path)[0], points)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _measured(score: Score, values: Sequence[float]) -> Measured:
    return Measured(score, mean_interval(values) if len(values) > 1 else None, len(values))
