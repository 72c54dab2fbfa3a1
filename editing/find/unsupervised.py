"""SeFa and GANSpace on a GAN: components of each group of layers, named by what they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.affine import style_matrices
from editing.directions import Direction, Directions
from editing.find.finder import Finder, register
from editing.find.judging import Judge, layer_groups, with_changes
from editing.latent.factorise import principal, sefa
from editing.styles import gan_of, sample_styles
from unified.contract.abilities import Renders, Styled
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random

_BATCH = 1000


@dataclass(frozen=True)
class ComponentSettings:
    """components: of each group of layers. samples: that deviations and principal components come from.
    judged: samples whose change names a component.
    """

    components: int = 8
    samples: int = 10_000
    judged: int = 64


def _latents(backbone: Backbone, count: int, rng: Random) -> Iterator[Tensor]:
    """Latents w [N, width] of `count` random samples, in batches."""
    for start in range(0, count, _BATCH):
        rows = range(start, min(start + _BATCH, count))
        yield sample_styles(backbone, rows, truncation=1.0, rng=rng)[:, 0]


def _directions(
    backbone: Backbone,
    judge: Judge,
    items: Mapping[str, Direction],
    settings: ComponentSettings,
    *,
    method: str,
    data: str,
    progress: Progress,
) -> Directions:
    named = with_changes(backbone, judge.classifier, items, count=settings.judged, progress=progress)
    return Directions(named, backbone.id, backbone.fingerprint, judge.name, settings.judged, {}, method, data)


def sefa_directions(
    backbone: Backbone,
    judge: Judge,
    *,
    settings: ComponentSettings = ComponentSettings(),
    rng: Random,
    progress: Progress,
) -> Directions:
    """SeFa (Shen & Zhou 2021) for each group of layers: "coarse-0" moves the coarse layers alone.

    Its A are of all channels that the group's style vectors feed, those to RGB included.
    """
    number, width = gan_of(backbone).style_shape()
    matrices = style_matrices(backbone)
    latents = torch.cat(list(_latents(backbone, settings.samples, rng)))
    items: dict[str, Direction] = {}
    for group, (first, last) in layer_groups(number).items():
        chosen = [matrix for place in range(first, last + 1) for matrix in matrices[place].values()]
        vectors, _ = sefa(chosen, min(settings.components, width))
        for place, vector in enumerate(vectors.to(latents.dtype)):
            items[f"{group}-{place}"] = Direction(vector, float((latents @ vector).std()), layers=(first, last))
    data = "the generator's weights"
    return _directions(backbone, judge, items, settings, method="sefa", data=data, progress=progress)


def ganspace_directions(
    backbone: Backbone,
    judge: Judge,
    *,
    settings: ComponentSettings = ComponentSettings(samples=300_000),
    rng: Random,
    progress: Progress,
) -> Directions:
    """GANSpace (Härkönen et al. 2020): principal components of w, applied to each group of layers (E(v, j-k))."""
    number, width = gan_of(backbone).style_shape()
    count = min(settings.components, width)
    components, deviations, _ = principal(_latents(backbone, settings.samples, rng), count)
    items = {
        f"{group}-{place}": Direction(vector.to(backbone.dtype), float(deviations[place]), layers=layers)
        for group, layers in layer_groups(number).items()
        for place, vector in enumerate(components)
    }
    data = f"{settings.samples:,} random w"
    return _directions(backbone, judge, items, settings, method="ganspace", data=data, progress=progress)


def _sefa(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = ComponentSettings() if samples is None else ComponentSettings(samples=samples)
    return sefa_directions(backbone, judge, settings=settings, rng=rng, progress=progress)


def _ganspace(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = ComponentSettings(samples=samples or 300_000)
    return ganspace_directions(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder("sefa", "eigenvectors of the style layers' weights (Shen & Zhou 2021)", _sefa, (Renders, Styled)))
register(Finder("ganspace", "principal components of w (Härkönen et al. 2020)", _ganspace))
