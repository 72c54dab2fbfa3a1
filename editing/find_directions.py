"""Finding the attribute directions of a GAN: samples, a classifier's judgement, boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from editing.directions import FILE, Direction, Directions, save_directions
from editing.latent.interfacegan import boundary
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.errors import UserError
from unified.files import write_file
from unified.zoo.training import BuildSettings

SAMPLES = 10_000  # of the embedded directions
_BATCH = 64


class Classifier(Protocol):
    """Judges attributes: `vocabulary` has the values of each, `logits` their scores on pictures in 0..1."""

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]: ...

    def logits(self, images: Tensor) -> Mapping[str, Tensor]:
        """[N,3,H,W] -> for each attribute [N, values]."""
        ...


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
    batch: int = _BATCH


def log_odds(logits: Tensor) -> Tensor:
    """log p/(1-p) of each value, [N, V], from logits [N, V]: orders as p does, and never saturates."""
    value = torch.eye(logits.shape[1], dtype=torch.bool)
    others = logits.unsqueeze(1).masked_fill(value, float("-inf")).logsumexp(2)
    return logits - others


@torch.no_grad()
def judge(
    backbone: Backbone,
    classifier: Classifier,
    rows: Sequence[int],
    *,
    truncation: float = 1.0,
    shift: Tensor | None = None,
    batch: int = _BATCH,
    rng: Random,
    progress: Progress | None = None,
    label: str = "judging samples",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents w [N, width] of random samples, and log-odds [N, values] of each attribute on their pictures.

    rows: which samples, as streams of `rng`. shift: [number, width] added to the styles before rendering.
    """
    gan = gan_of(backbone)
    progress = progress or Silent()
    progress.start(label, len(rows))
    latents: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {name: [] for name in classifier.vocabulary}
    with backbone.bound() as view:
        for start in range(0, len(rows), batch):
            styles = sample_styles(backbone, rows[start : start + batch], truncation=truncation, rng=rng)
            latents.append(styles[:, 0])
            moved = styles if shift is None else styles + shift.to(styles.dtype)
            logits = classifier.logits(gan.render(view, moved).clamp(0, 1))
            for name in scores:
                scores[name].append(log_odds(logits[name]))
            progress.advance(min(start + batch, len(rows)))
    progress.finish()
    return torch.cat(latents), {name: torch.cat(parts) for name, parts in scores.items()}


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
            if share < least / 2:
                left_out[name] = f"{100 * share:.2f} % of the samples show it"
                continue
            if share > 1 - least / 2:
                left_out[name] = f"{100 * share:.2f} % of the samples show it, there is no contrast"
                continue
            found = boundary(latents, score, fraction=min(max(share, least), largest), softness=settings.softness)
            deviation = float((latents @ found.normal).std())
            items[name] = Direction(found.normal, deviation, found.accuracy, share)
    return items, left_out


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
    latents, scores = judge(
        backbone,
        classifier,
        range(settings.samples),
        truncation=settings.truncation,
        batch=settings.batch,
        rng=rng or Random(0).child("directions"),
        progress=progress,
    )
    items, left_out = directions_from(latents, scores, classifier.vocabulary, settings)
    if not items:
        raise UserError(
            f"{extractor} sees none of its attributes vary in samples of {backbone.id}: no direction found."
        )
    return Directions(items, backbone.id, backbone.fingerprint, extractor, settings.samples, left_out)


def effect(
    backbone: Backbone,
    classifier: Classifier,
    shift: Tensor | None,
    *,
    count: int = 64,
) -> dict[str, float]:
    """Share of `count` fresh samples that show each value, 0..1 by name, after their styles moved by `shift`.

    shift: [number, width] or None.
    """
    _, scores = judge(backbone, classifier, range(count), shift=shift, rng=Random(0).child("effect"))
    return {
        f"{attribute}={value}": float((scores[attribute][:, place] > 0).float().mean())
        for attribute, values in classifier.vocabulary.items()
        for place, value in enumerate(values)
    }


def build(settings: BuildSettings) -> None:
    """Builder of avatars/directions: the directions of avatars/stylegan2 as avatars/attributes sees them.

    `settings.steps` is the number of samples; writes directions.safetensors and card.md into `settings.out`.
    """
    from unified.extractors import attributes
    from unified.loading import load
    from unified.progress import Bar

    backbone, classifier = load("avatars/stylegan2"), attributes.load()
    find = FindSettings(samples=settings.pick_steps(SAMPLES), batch=settings.pick_batch(_BATCH))
    directions = find_directions(
        backbone,
        classifier,
        extractor="avatars/attributes",
        settings=find,
        rng=Random(settings.seed).child("directions"),
        progress=Bar(),
    )
    number, _ = gan_of(backbone).style_shape()
    before = effect(backbone, classifier, None)
    effects = {
        name: (before[name], effect(backbone, classifier, 3.0 * direction.shift(number))[name])
        for name, direction in directions.items.items()
    }
    save_directions(directions, settings.out / FILE)
    write_file(settings.out / "card.md", card(directions, find, effects).encode())


def card(directions: Directions, settings: FindSettings, effects: Mapping[str, tuple[float, float]]) -> str:
    """What a user should know about the directions, in Markdown."""
    rows = "\n".join(
        f"| {name} | {100 * d.share:.1f} % | {100 * d.accuracy:.1f} % | {100 * effects[name][0]:.0f} % |"
        f" {100 * effects[name][1]:.0f} % |"
        for name, d in directions.items.items()
    )
    left_out = "\n".join(f"- {name}: {reason}" for name, reason in directions.left_out.items()) or "- none"
    return f"""# avatars/directions

Directions in the W space of {directions.backbone} (weights {directions.fingerprint}) along which one
attribute changes: InterFaceGAN (Shen et al. 2020). Judge: {directions.extractor}.

- {directions.samples:,} random samples, truncation {settings.truncation}; a linear support vector classifier
  between the samples that show a value most and least ({100 * settings.fractions[0]:.0f} to
  {100 * settings.fractions[1]:.0f} % at each end), 30 % of them held out for the accuracy.
- Strength 1 moves w by one standard deviation of the samples along the direction.
- Made by: `unified zoo build avatars/directions`

Share of the samples that show the value, accuracy of the boundary, and share of 64 other samples that show
it before and after moving by strength 3:

| direction | shown | accuracy | before | after |
|---|---|---|---|---|
{rows}

Without a direction:

{left_out}
"""
