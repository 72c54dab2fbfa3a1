"""Points that are dragged: mouth corners of avatars, sent to where other expressions have them.

The protocol of Pan et al. 2023, section 4.2 (table 1): points of a sample are dragged to where a landmark detector
finds them in other pictures, and the detector is asked again afterwards. So there are two answers: where the method
says that its point came to, and where the corner is to be seen, which the method has no part in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.target import Drag, Target
from unified.extractors.attributes import AttributeClassifier
from unified.generation import edit, generate
from unified.metrics.bootstrap import Interval, mean_interval

Point = tuple[float, float]

#: Where the avatars' left mouth corner is for each mouth, (x, y) in pixels of a picture of 64; the right one lies
#: opposite. Measured by `mouth_corners` on pictures without beards. An open mouth is widest at its lower lip, so
#: "scream" is left out: it would be another point that goes there.
LEFT_CORNERS: dict[str, Point] = {
    "neutral": (29.0, 39.5),
    "smile": (28.0, 38.5),
    "sad": (28.0, 40.5),
    "big smile": (25.0, 38.3),
    "tongue": (25.0, 38.3),
    "grimace": (24.0, 39.2),
}
WITHIN = 2.0  # pixels
LEAST_WAY = 3.0  # pixels: a drag shorter than that would say little
_BOX = (slice(36, 45), slice(21, 43))  # rows and columns that hold every mouth
_INNER = (slice(1, 7), slice(5, 17))  # of the box: where some of every mouth is
_CHEEK = (slice(36, 38), slice(23, 26))  # rows and columns that show skin alone
_CENTRE = (31.5, 40.0)
_CONTRAST = 0.4  # of the strongest difference from the skin: edges stay where they are when a picture is blurred
_LEAST = 0.1  # of a channel in 0..1: less is no mouth


def mouth_corners(image: Tensor) -> tuple[Point, Point] | None:
    """Left and right end of the mouth in an avatar [3,64,64] in 0..1; None where there is no mouth to be seen.

    The mouth is what differs from the skin of the cheek and hangs together, nearest to the middle of the face.
    """
    skin = image[(slice(None), *_CHEEK)].flatten(1).median(1).values
    difference = (image[(slice(None), *_BOX)] - skin[:, None, None]).abs().amax(0)
    strongest = float(difference[_INNER].max())
    differs = difference > max(_CONTRAST * strongest, _LEAST)
    parts, count = ndimage.label(differs.numpy(), structure=np.ones((3, 3)))
    if not count:
        return None
    top, left = _BOX[0].start, _BOX[1].start
    rows, columns = np.nonzero(parts)
    away = np.hypot(columns + left - _CENTRE[0], rows + top - _CENTRE[1])
    nearest = int(away.argmin())
    chosen = parts == parts[rows[nearest], columns[nearest]]
    rows, columns = np.nonzero(chosen)
    ends = [int(columns.min()), int(columns.max())]
    first, last = ((float(left + x), float(top + rows[columns == x].mean())) for x in ends)
    return first, last


@dataclass(frozen=True)
class Trial:
    """One drag. seed: of the sample. side: 0 the left corner, 1 the right one."""

    seed: int
    side: int
    start: Point
    goal: Point
    mouth: str


@dataclass(frozen=True)
class Outcome:
    """tracked: where the method says that the point is. seen: where the corner is found; None if there is none.

    steps: of the method. identity: cosine of who is shown before and after.
    """

    trial: Trial
    tracked: Point
    seen: Point | None
    steps: int
    identity: float

    @property
    def tracked_arrived(self) -> bool:
        return math.dist(self.tracked, self.trial.goal) <= WITHIN

    @property
    def seen_arrived(self) -> bool:
        return self.seen is not None and math.dist(self.seen, self.trial.goal) <= WITHIN


def trials(backbone: Backbone, classifier: AttributeClassifier, count: int, *, seed: int = 0) -> list[Trial]:
    """`count` drags of mouth corners of random samples to where another mouth has them, at least 3 pixels away.

    Of samples without facial hair, which would hide the corners, whose corners are where their mouth has them.
    """
    rng = Random(seed).child("drags")
    found: list[Trial] = []
    number = 0
    while len(found) < count and number < 50 * count:
        image = generate(backbone, [], Target(n=1), seed=number)
        shown = classifier.names(image)[0]
        corners = mouth_corners(image[0])
        number += 1
        if shown["facial_hair"] != "none" or shown["mouth"] not in LEFT_CORNERS or corners is None:
            continue
        side = len(found) % 2
        start = corners[side]
        if math.dist(start, mirrored(LEFT_CORNERS[shown["mouth"]], side)) > 1.5:
            continue
        goals = {mouth: mirrored(point, side) for mouth, point in LEFT_CORNERS.items()}
        far = [mouth for mouth, point in goals.items() if math.dist(start, point) >= LEAST_WAY]
        if far:
            pick = far[int(torch.randint(len(far), (1,), generator=rng.generator("goal", number)))]
            found.append(Trial(number - 1, side, start, goals[pick], pick))
    return found


def lower_face() -> Tensor:
    """[64, 64], 1 from the nose to the chin of an avatar."""
    mask = torch.zeros(64, 64)
    mask[34:48, 18:46] = 1
    return mask


def mirrored(point: Point, side: int) -> Point:
    """The point for the left corner (side 0), or opposite it for the right one."""
    return point if side == 0 else (63.0 - point[0], point[1])


def run_trial(
    backbone: Backbone,
    trial: Trial,
    embed: Callable[[Tensor], Tensor],
    *,
    movable: Tensor | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Do it. embed: pictures to unit vectors that say who is shown. movable: [H, W], what may change. settings: of
    the scheme, by name.
    """
    target = Target(n=1, drags=(Drag(trial.start, trial.goal),), movable=movable)
    concepts = edit(backbone, [], target, seed=trial.seed, settings=settings, progress=progress or Silent())
    before = generate(backbone, [], Target(n=1), seed=trial.seed)
    after = generate(backbone, concepts, Target(n=1), seed=trial.seed)
    outcome = next(c.meta["drag"]["outcome"][0] for c in concepts if "drag" in c.meta)
    corners = mouth_corners(after[0])
    x, y = outcome["points"][0]
    return Outcome(
        trial,
        (float(x), float(y)),
        None if corners is None else corners[trial.side],
        int(outcome["steps"]),
        float((embed(before) * embed(after)).sum()),
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Shares that arrived and means, each with its 95 % bootstrap interval over trials."""
    seen = [math.dist(o.seen, o.trial.goal) for o in outcomes if o.seen is not None]
    columns = {
        "tracked arrived": [float(o.tracked_arrived) for o in outcomes],
        "seen arrived": [float(o.seen_arrived) for o in outcomes],
        "pixels before": [math.dist(o.trial.start, o.trial.goal) for o in outcomes],
        "pixels seen": seen,
        "steps": [float(o.steps) for o in outcomes],
        "identity": [o.identity for o in outcomes],
    }
    return {name: mean_interval(values) for name, values in columns.items() if values}
