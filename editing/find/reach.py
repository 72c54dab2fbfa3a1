"""How far edits go: each direction for the layers that decide its attribute, with the strength that shows the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.directions import Direction
from editing.find.judging import Classifier
from editing.find.layers import deciding_layers, mixing_shares, shown_values
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random

#: Tried, in ways from the mean of all samples to the mean of those that show a value.
REACHES = (1.0, 1.5, 2.0, 2.5)
SAMPLES = 32


def with_reach(
    backbone: Backbone,
    classifier: Classifier,
    items: Mapping[str, Direction],
    latents: Tensor,
    scores: Mapping[str, Tensor],
    *,
    rng: Random,
    progress: Progress | None = None,
) -> dict[str, Direction]:
    """The directions "attribute=value" with the layers that decide the attribute, and their strengths.

    latents: w [N, width] of samples; scores: log-odds [N, values] of each attribute. Moving the deciding layers alone
    leaves alone what other layers decide. A strength goes past the mean of the samples that show the value, so that
    the same edit with the opposite sign takes a value away; how far, see `best_reach`.
    """
    progress = progress or Silent()
    layers = deciding_layers(mixing_shares(backbone, classifier, rng=rng.child("layers"), progress=progress))
    ways = {name: way_of(direction, name, latents, scores, classifier) for name, direction in items.items()}
    number, _ = gan_of(backbone).style_shape()
    styles = crossed(sample_styles(backbone, range(SAMPLES), truncation=1.0, rng=rng.child("reach")), rng=rng)
    own = shown_values(backbone, classifier, styles)
    found: dict[str, Direction] = {}
    progress.start("how far edits go", len(own))
    for done, (attribute, values) in enumerate(classifier.vocabulary.items(), 1):
        names = [f"{attribute}={value}" for value in values]
        span = layers.get(attribute, (0, number - 1))
        steps = torch.zeros(len(values), styles.shape[-1])
        for place, name in enumerate(names):
            if name in items and math.isfinite(ways[name]):
                steps[place] = ways[name] * items[name].vector
        reach = best_reach(backbone, classifier, attribute, steps, span, styles, own, rng=rng.child("reach", done))
        for name in (name for name in names if name in items):
            item = items[name]
            strength = round(reach * ways[name] / item.deviation, 2) if item.deviation else math.nan
            found[name] = replace(item, layers=layers.get(attribute), strength=strength)
        progress.advance(done)
    progress.finish()
    return {name: found.get(name, item) for name, item in items.items()}


def crossed(styles: Tensor, *, rng: Random) -> Tensor:
    """Styles [N, number, width] with the layers of each from three of them, from layers at random on.

    They stand for inverted pictures: those have a style vector for each layer too, and need longer steps than samples.
    """
    number = styles.shape[1]
    cuts = torch.rand(len(styles), 2, generator=rng.generator("cuts")).mul(number).long().sort(1).values
    layer = torch.arange(number)
    part = (layer >= cuts[:, :1]).long() + (layer >= cuts[:, 1:]).long()  # 0, 1, 2: whose layer it is
    rows = (torch.arange(len(styles)).unsqueeze(1) + part) % len(styles)
    return styles[rows, layer]


def way_of(
    direction: Direction, name: str, latents: Tensor, scores: Mapping[str, Tensor], classifier: Classifier
) -> float:
    """How far along the direction the mean of the samples that show its value lies from that of all."""
    attribute, _, value = name.partition("=")
    shown = scores[attribute].argmax(1) == classifier.vocabulary[attribute].index(value)
    along = latents @ direction.vector
    return float(along[shown].mean() - along.mean()) if bool(shown.any()) else math.nan


def best_reach(
    backbone: Backbone,
    classifier: Classifier,
    attribute: str,
    steps: Tensor,
    span: tuple[int, int],
    styles: Tensor,
    own: Mapping[str, Tensor],
    *,
    reaches: Sequence[float] = REACHES,
    rng: Random,
) -> float:
    """The reach at which the lesser of two shares is largest: of samples that show the value wanted of them, and of
    their other attributes that stay.

    Each sample is asked for another value at random: moved by that value's step less the step of its own. steps:
    [values, width], zeros where none is known. span: layers. own: values that the samples, styles [N, number, width],
    show.
    """
    known = [place for place, step in enumerate(steps) if bool(step.any())]
    if not known:
        return reaches[0]
    generator = rng.generator("wanted")
    drawn = torch.randint(len(known), (len(styles),), generator=generator).tolist()
    shown = own[attribute].tolist()
    wanted = torch.tensor(
        [known[d] if known[d] != now else known[(d + 1) % len(known)] for d, now in zip(drawn, shown, strict=True)]
    )
    moves = torch.zeros_like(styles)
    moves[:, span[0] : span[1] + 1] = (steps[wanted] - steps[own[attribute]]).unsqueeze(1).to(styles.dtype)
    best, found = -1.0, reaches[0]
    for reach in reaches:
        seen = shown_values(backbone, classifier, styles + reach * moves)
        changed = float((seen[attribute] == wanted).float().mean())
        others = [float((seen[name] == values).float().mean()) for name, values in own.items() if name != attribute]
        least = min(changed, sum(others) / len(others)) if others else changed
        if least > best:
            best, found = least, reach
    return found
