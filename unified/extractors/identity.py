"""Who is in an avatar: an embedding in which two pictures of one person agree, whatever else they show.

Supervised contrastive loss (Khosla et al. 2020, "Supervised Contrastive Learning", equation 2) over batches
that hold, besides several pictures of each person, the people most like them: same attributes in another
shade, or all but one attribute the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from unified.avatars.attributes import (
    ATTRIBUTES,
    PERSON_ATTRIBUTES,
    Person,
    Shade,
    decode,
    draw_shade,
    draw_varying,
)
from unified.avatars.dataset import AvatarSet, to_tensor
from unified.avatars.dataset import load as load_avatars
from unified.avatars.people import benchmark_people
from unified.avatars.render import drawing_packages, render
from unified.extractors.attributes import schedule
from unified.extractors.augment import augment
from unified.extractors.network import (
    WEIGHTS,
    Trunk,
    batches,
    channels_last,
    check_images,
    parameters_of,
    read_config,
    read_weights,
    save_model,
)
from unified.zoo.training import BuildSettings, step_generator, train_loop

KIND = "avatars identity embedding"
COMMAND = "unified zoo build avatars/identity"
STEPS, LEARNING_RATE, TEMPERATURE = 550, 3e-3, 0.1
#: People in a batch come in groups of GROUP alike; PICTURES of each.
BATCH, GROUP, PICTURES = 144, 3, 3
COLUMNS = [list(ATTRIBUTES).index(name) for name in PERSON_ATTRIBUTES]


class IdentityEmbedder(nn.Module):
    """Pictures to unit vectors; the dot product of two says how alike their people are, -1..1.

    threshold: the dot product from which `same` says that two pictures show one person.
    """

    def __init__(self, *, width: int = 24, features: int = 192, dimensions: int = 128, threshold: float = 0.5) -> None:
        super().__init__()
        self.shape = {"width": width, "features": features, "dimensions": dimensions}
        self.threshold = threshold
        self.trunk = Trunk(width, features)
        self.project = nn.Linear(features, dimensions)

    def forward(self, images: Tensor) -> Tensor:
        """[N,3,64,64] in 0..1 to unit vectors [N,128]."""
        return functional.normalize(self.project(functional.relu(self.trunk(images))), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in 0..1 to unit vectors [N,128], differentiable. UserError for other shapes."""
        vectors: Tensor = self(check_images(images))
        return vectors

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Pictures [N,3,H,W] and [M,3,H,W] to dot products [N,M] in -1..1."""
        return self.embed(first) @ self.embed(second).T

    def same(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether two pictures show one person, bool [N,M]."""
        return self.similarity(first, second) >= self.threshold


def load(folder: Path | None = None) -> IdentityEmbedder:
    """The stored embedding (the embedded one by default), frozen and in evaluation mode.

    Raises UserError when the folder holds none.
    """
    folder = WEIGHTS / "identity" if folder is None else Path(folder)
    config = read_config(folder, KIND)
    shape, threshold = config["shape"], config["threshold"]
    assert isinstance(shape, dict) and isinstance(threshold, float)
    model = IdentityEmbedder(
        width=int(shape["width"]),
        features=int(shape["features"]),
        dimensions=int(shape["dimensions"]),
        threshold=threshold,
    )
    read_weights(folder, model)
    return model


def contrastive_loss(vectors: Tensor, person: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Mean over anchors i of  -mean over positives p of log(exp(v_i v_p / t) / sum_{a!=i} exp(v_i v_a / t)).

    vectors: unit [N, D]; person: int [N]; an anchor without another picture of its person does not count.
    """
    logits = vectors @ vectors.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    log_share = logits - logits.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    positive = (person[:, None] == person[None, :]) & ~itself
    count = positive.sum(dim=1)
    per_anchor = -(log_share * positive).sum(dim=1) / count.clamp(min=1)
    return per_anchor[count > 0].mean()


@dataclass(frozen=True)
class Alike:
    """Which people are most like which: lists of people by what they share."""

    keys: list[tuple[int, ...]]
    groups: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Sequence[tuple[int, ...]]) -> Alike:
        """keys: the person attributes' indices of each person, in the order of the people's numbers."""
        alike = cls(list(keys))
        for number, key in enumerate(alike.keys):
            for name in alike.names(key):
                alike.groups.setdefault(name, []).append(number)
        return alike

    @staticmethod
    def names(key: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The whole key, then the key without each one of its attributes (-1)."""
        return [key] + [key[:place] + (-1,) + key[place + 1 :] for place in range(len(key))]

    def pick(self, person: int, rng: random.Random) -> int:
        """Someone else like `person`: half of the time only the shade differs, if there is such a person."""
        same, *others = self.names(self.keys[person])
        order = [same, *rng.sample(others, len(others))]
        if rng.random() < 0.5:
            order = order[1:] + order[:1]
        for name in order:
            candidates = [other for other in self.groups[name] if other != person]
            if candidates:
                return rng.choice(candidates)
        return rng.choice([other for other in range(len(self.keys)) if other != person])

    def batch(self, people: int, rng: random.Random) -> list[int]:
        """`people` different people in groups of GROUP: one at random and some that are like that one."""
        chosen: dict[int, None] = {}
        while len(chosen) < people:
            anchor = rng.randrange(len(self.keys))
            for person in [anchor] + [self.pick(anchor, rng) for _ in range(GROUP - 1)]:
                chosen[person] = None
        return list(chosen)[:people]


def build(settings: BuildSettings) -> None:
    """Train on the avatars and export weights, configuration and card with the verification scores."""
    drawing_packages()  # measuring draws doubles: better to fail now than after the training
    torch.manual_seed(settings.seed)
    train, validation = load_avatars("train"), load_avatars("validation")
    pictures_of = int((train.person == train.person[0]).sum())
    alike = Alike.of([tuple(row) for row in train.attributes[::pictures_of, COLUMNS].tolist()])
    accelerator = Accelerator()
    model = IdentityEmbedder()
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    network, prepared = accelerator.prepare(channels_last(model), optimiser)

    def step_fn(step: int) -> dict[str, float]:
        network.train()
        generator = step_generator(settings.seed, step)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        people = alike.batch(batch // PICTURES, rng)
        chosen = [
            person * pictures_of + number for person in people for number in rng.sample(range(pictures_of), PICTURES)
        ]
        rng.shuffle(chosen)
        # Little change of brightness: shades are part of who it is.
        images = augment(to_tensor(train.images[chosen]), generator, brightness=0.015)
        for group in prepared.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, steps)
        images = images.to(accelerator.device).contiguous(memory_format=torch.channels_last)
        person = torch.tensor([number // pictures_of for number in chosen], device=accelerator.device)
        loss = contrastive_loss(network(images), person)
        prepared.zero_grad()
        accelerator.backward(loss)
        prepared.step()
        return {"loss": loss.item()}

    reached, seconds = train_loop(
        step_fn,
        state={"model": model, "optimiser": prepared},
        steps=steps,
        settings=settings,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        model.cpu().eval()
        scores = verification_scores(model, validation)
        model.threshold = scores["validation people"].threshold
        config = {"kind": KIND, "shape": model.shape, "size": 64, "threshold": model.threshold}
        card = _card(model, scores, reached, batch, seconds, len(train))
        save_model(settings.out, model, config, card)


@dataclass(frozen=True)
class Verification:
    """How well a threshold on the dot product tells pairs of one person from pairs of two.

    auc: area under the receiver operating curve; accuracy: mean of the two rates at `threshold`, where it is
    best on these pairs. All 0..1.
    """

    auc: float
    accuracy: float
    threshold: float


def verify(same: Tensor, different: Tensor) -> Verification:
    """Scores of the dot products of pairs of one person [P] and of pairs of two people [Q]."""
    values = torch.cat([same, different]).double()
    truth = torch.cat([torch.ones(len(same)), torch.zeros(len(different))]).double()
    distinct, place = values.unique(return_inverse=True)
    positive = torch.zeros(len(distinct), dtype=torch.double).index_add_(0, place, truth)
    negative = torch.zeros(len(distinct), dtype=torch.double).index_add_(0, place, 1 - truth)
    # Mann-Whitney: the share of (same, different) pairs in the right order, ties for half.
    below = negative.cumsum(0) - negative
    auc = (positive * (below + negative / 2)).sum() / (len(same) * len(different))
    accepted_same = positive.flip(0).cumsum(0).flip(0) / len(same)
    rejected_different = below / len(different)
    accuracy, best = ((accepted_same + rejected_different) / 2).max(dim=0)
    lower = distinct[best - 1] if best > 0 else distinct[best]
    return Verification(float(auc), float(accuracy), float((distinct[best] + lower) / 2))


@torch.no_grad()
def verification_scores(model: IdentityEmbedder, data: AvatarSet) -> dict[str, Verification]:
    """Validation people against each other and against their closest doubles, and the held-out people.

    The doubles are drawn for the purpose: another shade alone, or one other attribute.
    """
    model.eval()
    vectors = torch.cat([model.embed(part) for part in batches(to_tensor(data.images))])
    person = torch.from_numpy(np.array(data.person))
    same, different = pairs(vectors, person)
    scores = {"validation people": verify(same, different)}
    rng = random.Random("identity doubles")
    first = np.unique(data.person, return_index=True)[1][:200]
    originals = [_person(data, int(index)) for index in first]
    for name, change in (("other shade only", _other_shade), ("one other attribute", _other_attribute)):
        near = torch.stack(
            [
                _draw(model, [change(original, rng)] * 2, rng) @ vectors[person == int(data.person[index])].T
                for original, index in zip(originals, first, strict=True)
            ]
        )
        scores[name] = verify(same, near.flatten())
    people = benchmark_people()
    held_out = _draw(model, [who for who in people for _ in range(5)], rng)
    scores["held-out people of the benchmark"] = verify(
        *pairs(held_out, torch.arange(len(people)).repeat_interleave(5))
    )
    return scores


def pairs(vectors: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products of all pairs of one person and of all pairs of two people."""
    products = vectors @ vectors.T
    upper = torch.ones_like(products, dtype=torch.bool).triu(1)
    equal = person[:, None] == person[None, :]
    return products[upper & equal], products[upper & ~equal]


def _person(data: AvatarSet, index: int) -> Person:
    row = decode(data.attributes[index])
    shade = Shade(*(float(value) for value in data.shades[index]))
    return Person(**{name: row[name] for name in PERSON_ATTRIBUTES}, shade=shade)


def _other_shade(person: Person, rng: random.Random) -> Person:
    return Person(**person.attributes(), shade=draw_shade(rng))


def _other_attribute(person: Person, rng: random.Random) -> Person:
    row = person.attributes()
    # Bald people's hair colour hardly shows; the other attributes always do.
    name = rng.choice([name for name in PERSON_ATTRIBUTES if name != "hair_colour"])
    if row["hair_colour"] == "none":
        name = "skin"
    row[name] = rng.choice([value for value in ATTRIBUTES[name] if value not in (row[name], "bald")])
    return Person(**row, shade=person.shade)


def _draw(model: IdentityEmbedder, people: Sequence[Person], rng: random.Random) -> Tensor:
    images = np.stack([render({**who.attributes(), **draw_varying(rng)}, who.shade) for who in people])
    return model.embed(to_tensor(images))


def _card(
    model: IdentityEmbedder,
    scores: Mapping[str, Verification],
    steps: int,
    batch: int,
    seconds: float,
    pictures: int,
) -> str:
    rows = "\n".join(f"| {name} | {score.auc:.4f} | {100 * score.accuracy:.1f} % |" for name, score in scores.items())
    return f"""# avatars/identity

Embeds an avatar of 64 x 64 as a unit vector of {model.shape["dimensions"]} numbers that says who it is,
whatever the expression, clothes, glasses and background.

- Network: convolutions on a grid of 32, 16 and 8, {parameters_of(model):,} parameters; stored as fp16.
- Loss: supervised contrastive, temperature {TEMPERATURE}, batches of people alike.
- Data: {pictures:,} training pictures of the avatars data set, with small shifts, blur, noise and block
  compression; no flips.
- Training: {steps} steps of {batch} pictures, AdamW, {seconds / 60:.1f} minutes.
- Made by: `{COMMAND}`
- One person from a dot product of {model.threshold:.3f}.

Two pictures of one person against two of different people; accuracy is the mean of the two rates at the best
threshold of the row. The doubles differ from a validation person in the shade of skin and hair alone, or in
one attribute:

| different people | area under the curve | accuracy |
|---|---|---|
{rows}
"""
