"""Is it the reference that decides who is drawn? Each person's concept against every other person's.

A model that ignores its reference, or draws everyone alike, draws the person no better from their own pictures
than from somebody else's. Pictures drawn from concept i are compared with pictures of person j that no concept was
made from: own[j] must beat other[i, j].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unified.avatars.benchmark import Person
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.recipe import Recipe
from unified.errors import UserError
from unified.evaluation.avatarbench import Features
from unified.evaluation.inverted import reference_of
from unified.inversion import InvertSettings, invert_many, recipe_for
from unified.metrics.bootstrap import Interval, mean_interval

PROMPT = "a portrait of {}"


@dataclass(frozen=True)
class OwnReference:
    """Over people. beats_next: share whom their own reference gives more identity than the next person's does.

    beats_all: more than any other person's. own, others: identity with the own reference and, the mean, with others'.
    """

    beats_next: Interval
    beats_all: Interval
    own: Interval
    others: Interval


def compared(likeness: Tensor) -> OwnReference:
    """likeness: [N, N], of what concept i draws (rows) to person j (columns); N is at least 2."""
    count = len(likeness)
    own = likeness.diagonal()
    following = likeness.roll(-1, 0).diagonal()  # row j + 1 draws for person j
    apart = ~torch.eye(count, dtype=torch.bool)
    others = torch.stack([column[keep] for column, keep in zip(likeness.T, apart, strict=True)])
    return OwnReference(
        mean_interval((own > following).float().tolist()),
        mean_interval((own > others.amax(1)).float().tolist()),
        mean_interval(own.tolist()),
        mean_interval(others.mean(1).tolist()),
    )


def likeness(
    backbone: Backbone,
    recipe: str | Recipe,
    people: Sequence[Person],
    identity: Features,
    *,
    pictures: int = 2,
    draws: int = 4,
    together: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """[N, N]: mean cosine of `draws` pictures drawn from concept i to the pictures of person j that were not shown.

    pictures: of each person, the first ones, that a concept is made from; fewer than there are. Raises UserError
    otherwise.
    """
    least = min(len(person.images) for person in people)
    if not 0 < pictures < least:
        raise UserError(
            f"pictures={pictures} was given; each person has {least}, and one at least is kept to judge by."
        )
    chosen = recipe_for(backbone, recipe=recipe)
    settings = InvertSettings(seed=seed, progress=progress or Silent())
    drawn = []
    for start in range(0, len(people), together):
        part = people[start : start + together]
        references = [reference_of(backbone, person, chosen, pictures=pictures) for person in part]
        for concept in invert_many(backbone, references, chosen, settings):
            prompt = PROMPT.format(concept.name)
            images = backbone.generate(concept, prompt=prompt, n=draws, seed=seed, output="pt", progress=Silent())
            drawn.append(identity(images))
    kept = [identity(each.images[pictures:]) for each in people]
    return torch.tensor([[float((one @ other.T).mean()) for other in kept] for one in drawn])
