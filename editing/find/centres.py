"""Class centres: from the mean of other samples to the mean of those that show a value.

Viazovetskyi et al. 2020, "StyleGAN2 Distillation for Feed-forward Image Manipulation", section 3.2: samples of
which a classifier is sure are taken, and the direction is the difference of the classes' mean w.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from editing.directions import Direction, Directions
from editing.find.finder import Finder, register
from editing.find.interfacegan import check_found, rarity
from editing.find.judging import BATCH, Judge, judge
from editing.find.reach import with_reach
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random

METHOD = "centres"


@dataclass(frozen=True)
class CentreSettings:
    """samples: judged pictures. confidence: least probability, of a value or against it, of a sample that
    counts. least: fewest samples of a class. truncation: psi of the samples.
    """

    samples: int = 10_000
    confidence: float = 0.8
    least: int = 20
    truncation: float = 1.0
    batch: int = BATCH


def centre_direction(latents: Tensor, shown: Tensor, absent: Tensor) -> Direction:
    """From the mean of the samples `absent` to that of `shown`.

    latents: [N, D]; shown, absent: bool [N]. Strength 1 is one deviation of all samples along the direction.
    """
    step = latents[shown].double().mean(0) - latents[absent].double().mean(0)
    unit = functional.normalize(step, dim=0).to(latents.dtype)
    along = latents @ unit
    middle = (along[shown].mean() + along[absent].mean()) / 2
    right = torch.cat([along[shown] > middle, along[absent] <= middle])
    return Direction(unit, float(along.std()), float(right.float().mean()))


def centres_from(
    latents: Tensor, scores: Mapping[str, Tensor], vocabulary: Mapping[str, Sequence[str]], settings: CentreSettings
) -> tuple[dict[str, Direction], dict[str, str]]:
    """Directions by name, and the values left out with the reason.

    latents: [N, width]; scores: log-odds [N, values] of each attribute.
    """
    items: dict[str, Direction] = {}
    left_out: dict[str, str] = {}
    sure = float(torch.logit(torch.tensor(settings.confidence)))
    for attribute, values in vocabulary.items():
        for place, value in enumerate(values):
            name, score = f"{attribute}={value}", scores[attribute][:, place]
            shown, absent = score >= sure, score <= -sure
            share = float((score > 0).float().mean())
            fewest = min(int(shown.sum()), int(absent.sum()))
            if fewest < settings.least:
                left_out[name] = rarity(share, 0.01) or f"the classifier is sure of {fewest} samples of one side"
                continue
            found = centre_direction(latents, shown, absent)
            items[name] = Direction(found.vector, found.deviation, found.accuracy, share)
    return items, left_out


def class_centres(
    backbone: Backbone,
    judged: Judge,
    *,
    settings: CentreSettings = CentreSettings(),
    rng: Random,
    progress: Progress | None = None,
) -> Directions:
    """A direction for every value that the classifier is sure of in enough samples. Raises UserError if none."""
    latents, scores = judge(
        backbone,
        judged.classifier,
        range(settings.samples),
        truncation=settings.truncation,
        batch=settings.batch,
        rng=rng,
        progress=progress,
    )
    items, left_out = centres_from(latents, scores, judged.classifier.vocabulary, settings)
    check_found(items, backbone, judged.name)
    items = with_reach(backbone, judged.classifier, items, latents, scores, rng=rng, progress=progress)
    data = f"{settings.samples:,} random samples, truncation {settings.truncation:g}, those judged with"
    data += f" a probability of {settings.confidence:g} or more"
    return Directions(items, backbone.id, backbone.fingerprint, judged.name, settings.samples, left_out, METHOD, data)


def _search(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = CentreSettings() if samples is None else CentreSettings(samples=samples)
    return class_centres(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder(METHOD, "differences of the means of two classes of samples (Viazovetskyi et al. 2020)", _search))
