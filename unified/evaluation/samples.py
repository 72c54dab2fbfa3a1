"""How close random samples are to the data, as Frechet distances in a named feature space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unified.avatars import dataset
from unified.contract.backbone import Backbone
from unified.contract.random import Random
from unified.contract.target import Target
from unified.metrics.frechet import fit_gaussian, frechet_distance

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SampleQuality:
    """distance: samples against real pictures. floor: real against other real pictures, as many of them."""

    distance: float
    floor: float
    samples: int
    features: str


def sample_quality(
    backbone: Backbone,
    features: Features,
    *,
    name: str,
    samples: int = 2000,
    batch: int = 100,
    seed: int = 0,
    prompts: list[str] | None = None,
) -> SampleQuality:
    """Frechet distance of `samples` pictures of the backbone to as many training pictures.

    name: of the feature space. prompts: for backbones that are asked by text, taken in turn; untruncated
    samples otherwise (a backbone with a `truncation` setting draws at 1).
    """
    data = dataset.load("train")
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed)).tolist()

    def real(rows: list[int]) -> Tensor:
        parts = [dataset.to_tensor(data.images[rows[i : i + batch]]) for i in range(0, len(rows), batch)]
        return torch.cat([features(part) for part in parts])

    reference = fit_gaussian(real(order[:samples]))
    floor = frechet_distance(fit_gaussian(real(order[samples : 2 * samples])), reference)
    plain = {"truncation": 1.0} if hasattr(backbone.sampling, "truncation") else {}
    drawn = []
    with backbone.bound() as view:
        for start in range(0, samples, batch):
            rng = Random(seed).child("samples", start)
            prompt = "" if prompts is None else prompts[(start // batch) % len(prompts)]
            target = Target(prompt=prompt, n=min(batch, samples - start), sampling=plain)
            drawn.append(features(view.sample(target, rng=rng)))
    distance = frechet_distance(fit_gaussian(torch.cat(drawn)), reference)
    return SampleQuality(distance, floor, samples, name)
