"""Every recipe on the 30 held-out people: reconstruction, fidelity to the person, prompt following, time.

A concept that holds codes per picture can be asked for its pictures back: that is its reconstruction. Every
concept can be asked for something new: its fidelity and what it does of the prompt are read from those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unified.avatars.benchmark import Person, Prompt
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.recipe import Recipe
from unified.evaluation.inverted import reference_of
from unified.evaluation.table import Measured, Result
from unified.extractors.attributes import AttributeClassifier
from unified.inversion import InvertSettings, invert_many, recipe_for
from unified.metrics.bootstrap import Interval, mean_interval
from unified.metrics.lpips import embedded_lpips
from unified.metrics.reconstruction import psnr, ssim
from unified.metrics.score import Score

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judges:
    """identity, clip: features [N,D] of unit length of images; text: of texts; attributes: the classifier."""

    identity: Features
    attributes: AttributeClassifier
    clip: Features | None = None
    text: Callable[[Sequence[str]], Tensor] | None = None


@dataclass
class PersonScores:
    """Scores of one recipe on one person; names as in the columns of the table."""

    person: str
    values: dict[str, float] = field(default_factory=dict)


def pick_prompts(person: Person, count: int) -> list[Prompt]:
    """`count` of the person's prompts, kinds in turn."""
    kinds: dict[str, list[Prompt]] = {}
    for prompt in person.prompts:
        kinds.setdefault(prompt.kind, []).append(prompt)
    turns = [each[i] for i in range(max(map(len, kinds.values()))) for each in kinds.values() if i < len(each)]
    return turns[:count]


def score_generation(
    images: Sequence[Tensor], person: Person, prompts: Sequence[Prompt], judges: Judges
) -> dict[str, float]:
    """images: for each prompt [n,3,H,W]. Identity and CLIP-I against all reference pictures."""
    everything = torch.cat(list(images))
    scores = {"identity": float((judges.identity(everything) @ judges.identity(person.images).T).mean())}
    seen = judges.attributes.names(everything)
    hits, row = [], 0
    for prompt, drawn in zip(prompts, images, strict=True):
        hits += [seen[row + i][prompt.attribute] == prompt.value for i in range(len(drawn))]
        row += len(drawn)
    scores["attribute"] = sum(hits) / len(hits)
    if judges.clip is not None and judges.text is not None:
        scores["clip-i"] = float((judges.clip(everything) @ judges.clip(person.images).T).mean())
        texts = judges.text([prompt.text.replace("{}", "a person") for prompt in prompts])
        per_prompt = [float((judges.clip(d) @ t).mean()) for d, t in zip(images, texts, strict=True)]
        scores["clip-t"] = sum(per_prompt) / len(per_prompt)
    return scores


def score_reconstruction(images: Tensor, references: Tensor, judges: Judges) -> dict[str, float]:
    """PSNR (dB), SSIM, LPIPS-Alex and identity of each picture against its original, averaged."""
    with torch.no_grad():
        return {
            "psnr": float(psnr(images, references).mean()),
            "ssim": float(ssim(images, references).mean()),
            "lpips-alex": float(embedded_lpips()(images, references).mean()),
            "identity-rec": float((judges.identity(images) * judges.identity(references)).sum(1).mean()),
        }


def evaluate_people(
    backbone: Backbone,
    recipe: str | Recipe,
    people: Sequence[Person],
    judges: Judges,
    *,
    prompts: int = 5,
    pictures: int = 5,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[PersonScores]:
    """Invert the first `pictures` of each person with `recipe`, in one batch where the recipe allows it, and score.

    recipe "" is the category alone, not inverted. prompts: how many are asked for; 0 leaves generation out.
    sampling: settings of the sampler, instead of the recipe's and the model's.
    seconds: of the inversion, its share for one person where several went through in one batch.
    """
    scores = [PersonScores(person.name) for person in people]
    concepts: Sequence[Concept | None] = [None] * len(people)
    if recipe:
        chosen = recipe_for(backbone, recipe=recipe)
        references = [reference_of(backbone, person, chosen, pictures=pictures) for person in people]
        begin = time.monotonic()
        concepts = invert_many(backbone, references, chosen, InvertSettings(seed=seed, progress=progress or Silent()))
        seconds = (time.monotonic() - begin) / len(people)
        for each in scores:
            each.values["seconds"] = seconds
    for each, person, concept in zip(scores, people, concepts, strict=True):
        each.values |= score_concept(
            backbone, concept, person, judges, prompts=prompts, pictures=pictures, seed=seed, sampling=sampling
        )
    return scores


def score_concept(
    backbone: Backbone,
    concept: Concept | None,
    person: Person,
    judges: Judges,
    *,
    prompts: int,
    pictures: int,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """What the concept (None: the category alone) gives back of the pictures, and makes of the prompts."""
    found: dict[str, float] = {}
    if concept is not None and concept.gives_back:
        rebuilt = backbone.generate(concept, sampling=sampling, output="pt", progress=Silent())
        originals = backbone.reference(person.images[:pictures]).images
        found |= score_reconstruction(rebuilt, originals, judges)
    asked = pick_prompts(person, prompts)
    if not asked:
        return found
    begin = time.monotonic()
    drawn = [
        backbone.generate(
            concept,
            prompt=prompt.text.replace("{}", f"a {backbone.category}" if concept is None else concept.name),
            seed=seed,
            n=1,
            sampling=sampling,
            output="pt",
            progress=Silent(),
        )
        for prompt in asked
    ]
    found["seconds-per-picture"] = (time.monotonic() - begin) / len(asked)
    return found | score_generation(drawn, person, asked, judges)


#: What each column is measured with, and averaged over before people.
_MEASURED = {
    "identity": ("avatars/identity", "all pairs"),
    "clip-i": ("avatars/clip", "all pairs"),
    "clip-t": ("avatars/clip", "images > prompts"),
    "attribute": ("avatars/attributes", "all images"),
    "lpips-alex": ("lpips-alex v0.1", "pictures"),
    "identity-rec": ("avatars/identity", "pictures"),
    "psnr": ("pixels", "pictures"),
    "ssim": ("pixels", "pictures"),
}


def result(run: str, scores: Sequence[PersonScores]) -> Result:
    """The scores in the form that tables are made of; times are left out."""
    return Result(
        run,
        "avatarbench",
        {
            name: Measured(
                Score(each.mean, name, _MEASURED[name][0], f"{_MEASURED[name][1]} > people"), each, len(scores)
            )
            for name, each in summarise(scores).items()
            if name in _MEASURED
        },
    )


def summarise(scores: Sequence[PersonScores]) -> Mapping[str, Interval]:
    """Mean and bootstrap interval over people of every column that all of them have."""
    columns = set.intersection(*(set(each.values) for each in scores)) if scores else set()
    return {column: mean_interval([each.values[column] for each in scores]) for column in sorted(columns)}
