"""InterFaceGAN: boundaries between samples that show a value and those that do not (Shen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from editing.directions import DEFAULT_METHOD, Direction, Directions
from editing.find.finder import Finder, register
from editing.find.judging import BATCH, Classifier, Judge, judge
from editing.find.reach import with_reach
from editing.latent.interfacegan import boundary
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.errors import UserError

SOFTNESS = 1e-5  # of the embedded directions


@dataclass(frozen=True)
class FindSettings:
    """How directions are found.

    samples: judged pictures. fractions: least and largest share of them that a boundary is fitted to at each
    end; within these, as many as show the value. truncation: psi of the samples. softness: see `boundary`.
    """

    samples: int = 10_000
    fractions: tuple[float, float] = (0.02, 0.1)
    truncation: float = 1.0
    softness: float = 1.0
    batch: int = BATCH


def directions_from(
    latents: Tensor,
    scores: Mapping[str, Tensor],
    vocabulary: Mapping[str, Sequence[str]],
    settings: FindSettings,
) -> tuple[dict[str, Direction], dict[str, str]]:
    """Directions by name, and the values left out with the reason.

    latents: [N, width]; scores: log-odds [N, values] of each attribute. A value is left out if too few
    samples show it: then the highest scores tell nothing of it.
    """
    items: dict[str, Direction] = {}
    left_out: dict[str, str] = {}
    least, largest = settings.fractions
    for attribute, values in vocabulary.items():
        for place, value in enumerate(values):
            name, score = f"{attribute}={value}", scores[attribute][:, place]
            share = float((score > 0).float().mean())
            reason = rarity(share, least / 2)
            if reason is not None:
                left_out[name] = reason
                continue
            found = boundary(
                latents,
                score,
                fraction=min(max(share, least), largest),
                softness=settings.softness,
                shown=scores[attribute].argmax(1) if len(values) > 2 else None,
            )
            deviation = float((latents @ found.normal).std())
            items[name] = Direction(found.normal, deviation, found.accuracy, share)
    return items, left_out


def rarity(share: float, least: float) -> str | None:
    """Why a value that `share` of the samples show has no direction, or None."""
    if share < least:
        return f"{100 * share:.2f} % of the samples show it"
    if share > 1 - least:
        return f"{100 * share:.2f} % of the samples show it, there is no contrast"
    return None


def find_directions(
    backbone: Backbone,
    classifier: Classifier,
    *,
    extractor: str,
    settings: FindSettings = FindSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Directions for every value that the classifier knows and the generator shows (InterFaceGAN).

    Random samples are rendered and judged; each value's direction is the normal of the boundary between the
    samples that show it most and least. extractor: the classifier's name, kept in the file. Raises UserError
    if the backbone is no GAN, or no value has a direction.
    """
    rng = rng or Random(0).child("directions")
    latents, scores = judge(
        backbone,
        classifier,
        range(settings.samples),
        truncation=settings.truncation,
        batch=settings.batch,
        rng=rng,
        progress=progress,
    )
    items, left_out = directions_from(latents, scores, classifier.vocabulary, settings)
    check_found(items, backbone, extractor)
    items = with_reach(backbone, classifier, items, latents, scores, rng=rng, progress=progress)
    data = f"{settings.samples:,} random samples, truncation {settings.truncation:g}"
    return Directions(
        items, backbone.id, backbone.fingerprint, extractor, settings.samples, left_out, DEFAULT_METHOD, data
    )


def check_found(items: Mapping[str, object], backbone: Backbone, extractor: str) -> None:
    """Raises UserError if there is no direction."""
    if not items:
        raise UserError(
            f"{extractor} sees none of its attributes vary in samples of {backbone.id}: no direction found."
        )


def _search(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    # The normal of a hard boundary tells classes apart and need not be the way from one to the other: it leans away
    # from whatever else varies. The softer the boundary, the nearer its normal is to the difference of the means.
    settings = FindSettings(samples=samples or FindSettings.samples, softness=SOFTNESS)
    return find_directions(
        backbone, judge.classifier, extractor=judge.name, settings=settings, rng=rng, progress=progress
    )


register(Finder(DEFAULT_METHOD, "boundaries between samples that show a value and others (Shen et al. 2020)", _search))
