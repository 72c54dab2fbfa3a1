"""Does a text-to-image model draw what it is asked for? Judged by the attribute classifier."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unified.avatars import captions, dataset
from unified.contract.backbone import Backbone
from unified.contract.random import Random
from unified.contract.target import Target
from unified.extractors.attributes import AttributeClassifier

#: The attributes whose presence is demanded of the embedded models.
JUDGED = ("hair_colour", "glasses", "mouth", "clothes_colour", "background")
PROMPT_PREFIX = "a portrait of "


@dataclass(frozen=True)
class Following:
    """Share of samples that show each requested attribute, 0..1, and over all of them together."""

    by_attribute: Mapping[str, float]
    mean: float
    samples: int
    extractor: str


def requests(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Attributes of `count` random validation pictures, restricted to the judged ones that can be asked for."""
    data = dataset.load("validation")
    rows = random.Random(seed).sample(range(len(data.images)), count)
    found = []
    for index in rows:
        row = data.row(index)
        asked = {name: row[name] for name in JUDGED}
        if asked["hair_colour"] == "none":
            del asked["hair_colour"]
        found.append(asked)
    return found


def prompt_of(request: Mapping[str, str]) -> str:
    """'a portrait of a person with blonde hair, wearing sunglasses, ...' with every requested attribute in it."""
    return captions.sentence(captions.clauses_of(request), PROMPT_PREFIX)


def judge(images: Tensor, asked: Sequence[Mapping[str, str]], classifier: AttributeClassifier) -> Following:
    """Compare what the classifier sees in images [N,3,H,W] with what was asked of each."""
    hits: dict[str, list[bool]] = {}
    for seen, request in zip(classifier.names(images), asked, strict=True):
        for name, value in request.items():
            hits.setdefault(name, []).append(seen[name] == value)
    everything = [hit for each in hits.values() for hit in each]
    return Following(
        {name: sum(each) / len(each) for name, each in sorted(hits.items())},
        sum(everything) / len(everything),
        len(images),
        "avatars/attributes",
    )


def attribute_following(
    backbone: Backbone, classifier: AttributeClassifier, *, samples: int = 200, batch: int = 50, seed: int = 0
) -> Following:
    """Draw one picture for each of `samples` random requests and judge them."""
    import torch

    asked = requests(samples, seed=seed)
    drawn = []
    for start in range(0, samples, batch):
        with backbone.bound() as view:
            for offset, request in enumerate(asked[start : start + batch]):
                target = Target(prompt=prompt_of(request), n=1)
                drawn.append(view.sample(target, rng=Random(seed).child("evaluate", start + offset)))
    return judge(torch.cat(drawn), asked, classifier)
