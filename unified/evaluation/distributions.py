"""FID and KID of two folders of pictures: real ones and generated ones.

Frechet distance (Heusel et al. 2017, equation 6) and kernel distance (Binkowski et al. 2018, section 3) between
features of all pictures below each folder. Both depend on how many pictures there are, so the counts stand beside
the values; FID is biased by a small count, KID is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from unified.errors import UserError
from unified.evaluation.table import Measured, Result
from unified.images import SUFFIXES, read_images
from unified.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from unified.metrics.score import Score

SUBSET, SUBSETS = 1000, 100  # of published KID values


def pictures_below(folder: Path) -> list[Path]:
    """Every picture below a folder, by path. Raises UserError for fewer than 2."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if len(found) < 2:
        raise UserError(f"{folder} holds {len(found)} pictures; a distance between sets needs at least 2 on each side.")
    return found


def features_of(folder: Path, features: Callable[[Tensor], Tensor], *, batch: int = 32) -> Tensor:
    """[N,D] of every picture below a folder; pictures of one size are taken together."""
    paths = pictures_below(folder)
    found: list[Tensor] = []
    for start in range(0, len(paths), batch):
        pictures = [read_images(path) for path in paths[start : start + batch]]
        if len({picture.shape for picture in pictures}) == 1:
            found.append(features(torch.cat(pictures)))
        else:
            found += [features(picture) for picture in pictures]
    return torch.cat(found)


def evaluate(
    real: Path, generated: Path, features: Callable[[Tensor], Tensor], *, name: str, run: str, seed: int = 0
) -> Result:
    """FID and KID. name: of the feature space. seed: of KID's subsets."""
    a, b = features_of(real, features), features_of(generated, features)
    counts = f"{len(a)} real, {len(b)} generated"
    subset = min(SUBSET, len(a), len(b))
    fid = frechet_distance(fit_gaussian(a), fit_gaussian(b))
    kid = kernel_distance(a, b, subset_size=subset, subsets=SUBSETS, seed=seed)
    scores = {
        "fid": Score(fid, "fid", f"{name}; {counts}"),
        "kid": Score(kid, "kid", f"{name}; {counts}; {SUBSETS} subsets of {subset}"),
    }
    return Result(run, "distributions", {metric: Measured(score) for metric, score in scores.items()})
