"""Single style channels that change one attribute (Wu et al. 2021, "StyleSpace Analysis", section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.directions import Direction, Directions
from editing.find.channel_statistics import channel_statistics, channels_from
from editing.find.finder import Finder, register
from editing.find.interfacegan import check_found
from editing.find.judging import BATCH, Classifier, Judge, judge, log_odds, with_changes
from editing.latent.stylespace import normalised_relevance, one_channel
from editing.paths import Shift
from editing.styles import channel_sizes, sample_styles, split, styled_of
from unified.contract.abilities import Renders, Styled
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random

METHOD = "stylespace"


@dataclass(frozen=True)
class ChannelSettings:
    """samples: judged for exemplars and for the channels' statistics. exemplars: pictures that show a value most
    (the paper: 10 to 30); least: fewest. candidates: channels that are tried for each value by each
    ranking. trial: deviations that a candidate is moved by, both ways. tried: pictures it is tried on.
    """

    samples: int = 10_000
    exemplars: int = 30
    least: int = 10
    candidates: int = 5
    trial: float = 5.0
    tried: int = 32
    batch: int = BATCH


def gradient_relevance(
    backbone: Backbone, classifier: Classifier, styles: Tensor, deviation: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Value -> how much one deviation of each channel [C] changes its log-odds, to first order, and the sign.

    Mean over the samples styles [N, number, width] of the gradient by the channel, times its deviation [C].
    """
    gan = styled_of(backbone)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.enable_grad(), backbone.bound() as view:
        channels = channels_from(backbone, styles[:, 0]).requires_grad_()
        images = gan.render_channels(view, split(channels, gan.style_channels()))
        logits = classifier.logits(images)
        for attribute, values in classifier.vocabulary.items():
            score = log_odds(logits[attribute]).sum(0)
            for place, value in enumerate(values):
                slope: Tensor | None = None  # stays so for scores that no channel changes
                if score.requires_grad:
                    (slope,) = torch.autograd.grad(score[place], channels, retain_graph=True, allow_unused=True)
                slope = torch.zeros_like(channels) if slope is None else slope
                change = slope.mean(0) * deviation
                found[f"{attribute}={value}"] = change.abs(), change.sign()
    return found


def trial_changes(
    backbone: Backbone,
    classifier: Classifier,
    channels: Sequence[int],
    deviation: Tensor,
    settings: ChannelSettings,
    *,
    rng: Random,
    progress: Progress,
) -> dict[int, dict[str, float]]:
    """Channel -> value -> mean log-odds after moving it up by `trial` deviations, less those after moving it down."""
    progress.start("trying channels", len(channels))
    found: dict[int, dict[str, float]] = {}
    for done, channel in enumerate(channels, 1):
        step = settings.trial * deviation * one_channel(channel, len(deviation), sign=1.0, like=deviation)
        up, down = (
            judge(backbone, classifier, range(settings.tried), shift=Shift(channels=s), batch=settings.batch, rng=rng)
            for s in (step, -step)
        )
        found[channel] = {
            f"{attribute}={value}": float((up[1][attribute] - down[1][attribute])[:, place].mean())
            for attribute, values in classifier.vocabulary.items()
            for place, value in enumerate(values)
        }
        progress.advance(done)
    progress.finish()
    return found


def candidates_for(
    relevance: Mapping[str, Tensor], slopes: Mapping[str, tuple[Tensor, Tensor]], count: int
) -> dict[str, list[int]]:
    """Value -> the channels first in its relevance over exemplars, and those first in its gradient."""
    found = {}
    for name, each in relevance.items():
        best = [values.topk(min(count, len(values))).indices.tolist() for values in (each, slopes[name][0])]
        found[name] = list(dict.fromkeys(best[0] + best[1]))
    return found


def stylespace_directions(
    backbone: Backbone,
    judged: Judge,
    *,
    settings: ChannelSettings = ChannelSettings(),
    rng: Random,
    progress: Progress,
) -> Directions:
    """For each value the one channel that changes it most, of those that exemplars or gradients point to.

    Channels are ranked by their normalised relevance over exemplars (section 5), and by the classifier's
    gradient; the first of both are tried. The paper looks at the candidates' pictures, here the classifier does.
    """
    rows = range(settings.samples)
    classifier = judged.classifier
    latents, scores = judge(backbone, classifier, rows, batch=settings.batch, rng=rng, progress=progress)
    mean, deviation = channel_statistics(backbone, rows, rng=rng)
    relevance: dict[str, Tensor] = {}
    shares: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for attribute, values in classifier.vocabulary.items():
        for place, value in enumerate(values):
            name, score = f"{attribute}={value}", scores[attribute][:, place]
            showing = int((score > 0).sum())
            shares[name] = showing / len(score)
            if showing < settings.least or showing == len(score):
                left_out[name] = f"{100 * shares[name]:.2f} % of the samples show it"
                continue
            best = score.topk(min(settings.exemplars, showing)).indices
            relevance[name], _ = normalised_relevance(channels_from(backbone, latents[best]), mean, deviation)
    few = sample_styles(backbone, range(settings.tried), truncation=1.0, rng=rng)
    slopes = gradient_relevance(backbone, classifier, few, deviation)
    chosen = candidates_for(relevance, slopes, settings.candidates)
    distinct = sorted({channel for channels in chosen.values() for channel in channels})
    changes = trial_changes(backbone, classifier, distinct, deviation, settings, rng=rng, progress=progress)
    sizes = channel_sizes(backbone)
    items: dict[str, Direction] = {}
    for name, channels in chosen.items():
        best_channel = max(channels, key=lambda channel: abs(changes[channel][name]))
        change = changes[best_channel][name]
        if change == 0 or float(deviation[best_channel]) == 0:
            left_out[name] = "no channel changes it"
            continue
        sign = 1.0 if change > 0 else -1.0
        vector = one_channel(best_channel, len(deviation), sign=sign, like=deviation)
        items[name] = Direction(vector, float(deviation[best_channel]), share=shares[name], channels=sizes)
    check_found(items, backbone, judged.name)
    items = with_changes(backbone, classifier, items, count=settings.tried, progress=progress)
    data = f"{settings.samples:,} random samples; candidates tried on {settings.tried} of them"
    return Directions(items, backbone.id, backbone.fingerprint, judged.name, settings.samples, left_out, METHOD, data)


def _search(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = ChannelSettings() if samples is None else replace(ChannelSettings(), samples=samples)
    return stylespace_directions(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder(METHOD, "the style channel that changes a value most (Wu et al. 2021)", _search, (Renders, Styled)))
