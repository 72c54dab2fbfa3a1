"""What a classifier sees in a GAN's samples, and in moved ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from editing.directions import Direction
from editing.paths import Path, Shift
from editing.rendering import Mover, render_shifted
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random

BATCH = 64
CHANGE_STRENGTH = 3.0  # the ends of what samples span
_LEAST_CHANGE = 0.02  # of a share: less is chance
_CHANGES_KEPT = 8
Movable = TypeVar("Movable", Direction, Path)


class Classifier(Protocol):
    """Judges attributes: `vocabulary` has the values of each, `logits` their scores on pictures in 0..1."""

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]: ...

    def logits(self, images: Tensor) -> Mapping[str, Tensor]:
        """[N,3,H,W] -> for each attribute [N, values]."""
        ...


@dataclass(frozen=True)
class Judge:
    """A classifier and the name under which direction files remember it."""

    name: str
    classifier: Classifier


def embedded_judge() -> Judge:
    """avatars/attributes. Raises UserError if it is not there."""
    from unified.extractors import attributes

    return Judge("avatars/attributes", attributes.load())


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
    shift: Shift | Mover | None = None,
    batch: int = BATCH,
    rng: Random,
    progress: Progress | None = None,
    label: str = "judging samples",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents w [N, width] of random samples, and log-odds [N, values] of each attribute on their pictures.

    rows: which samples, as streams of `rng`. shift: added before rendering.
    """
    progress = progress or Silent()
    progress.start(label, len(rows))
    latents: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {name: [] for name in classifier.vocabulary}
    for start in range(0, len(rows), batch):
        styles = sample_styles(backbone, rows[start : start + batch], truncation=truncation, rng=rng)
        latents.append(styles[:, 0])
        logits = classifier.logits(render_shifted(backbone, styles, shift))
        for name in scores:
            scores[name].append(log_odds(logits[name]))
        progress.advance(min(start + batch, len(rows)))
    progress.finish()
    return torch.cat(latents), {name: torch.cat(parts) for name, parts in scores.items()}


def effect(
    backbone: Backbone,
    classifier: Classifier,
    shift: Shift | Mover | None,
    *,
    count: int = 64,
) -> dict[str, float]:
    """Share of `count` fresh samples that show each value, 0..1 by name, after they moved by `shift`."""
    _, scores = judge(backbone, classifier, range(count), shift=shift, rng=Random(0).child("effect"))
    return {
        f"{attribute}={value}": float((scores[attribute][:, place] > 0).float().mean())
        for attribute, values in classifier.vocabulary.items()
        for place, value in enumerate(values)
    }


def scaled_shift(direction: Direction | Path, strength: float, number: int) -> Shift | Mover:
    """What `strength` of a direction or a path adds."""
    if isinstance(direction, Path):
        return partial(direction.shift, strength=strength)
    step = strength * direction.shift(number)
    return Shift(channels=step) if direction.channels else Shift(styles=step)


def with_changes(
    backbone: Backbone,
    classifier: Classifier,
    items: Mapping[str, Movable],
    *,
    count: int = 64,
    progress: Progress | None = None,
) -> dict[str, Movable]:
    """The directions or paths with `changes` filled in: what each one does to the attributes of `count` samples.

    Directions of unsupervised methods have no meaning by themselves; this is where their names come from.
    """
    progress = progress or Silent()
    number, _ = gan_of(backbone).style_shape()
    progress.start("naming components", len(items))
    found = {}
    for done, (name, direction) in enumerate(items.items(), 1):
        up, down = (
            effect(backbone, classifier, scaled_shift(direction, sign * CHANGE_STRENGTH, number), count=count)
            for sign in (1, -1)
        )
        changes = {value: round(up[value] - down[value], 4) for value in up}
        largest = sorted(changes, key=lambda value: (-abs(changes[value]), value))[:_CHANGES_KEPT]
        kept = {value: changes[value] for value in largest if abs(changes[value]) >= _LEAST_CHANGE}
        if name in changes:
            kept[name] = changes[name]  # what it was found for, however little
        found[name] = replace(direction, changes=kept)
        progress.advance(done)
    progress.finish()
    return found


def layer_groups(number: int) -> dict[str, tuple[int, int]]:
    """Layers that change shape, features and colours: first and last of each group, and of all.

    The groups are those of StyleCLIP (Patashnik et al. 2021, section 5): 0-3, 4-7 and the rest.
    """
    groups = {"all": (0, number - 1), "coarse": (0, 3), "medium": (4, 7), "fine": (8, number - 1)}
    return {
        name: (first, min(last, number - 1))
        for name, (first, last) in groups.items()
        if first < number and (name == "all" or last - first + 1 < number)
    }
