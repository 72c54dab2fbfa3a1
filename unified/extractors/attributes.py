"""Which attributes an avatar shows: one trunk with one head for each attribute.

The held-out hair styles have no training pictures: the classifier never answers with one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from unified.avatars.attributes import ATTRIBUTES, HELD_OUT_HAIR
from unified.avatars.dataset import AvatarSet, to_tensor
from unified.avatars.dataset import load as load_avatars
from unified.errors import UserError
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

KIND = "avatars attribute classifier"
COMMAND = "unified zoo build avatars/attributes"
STEPS, BATCH, LEARNING_RATE = 700, 128, 3e-3


class AttributeClassifier(nn.Module):
    """Pictures to a value for each attribute. Differentiable with respect to the pictures.

    vocabulary: attribute to its values in index order; width: channels of the first layer.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, tuple[str, ...]] = ATTRIBUTES,
        *,
        width: int = 24,
        features: int = 256,
    ) -> None:
        super().__init__()
        self.vocabulary = {name: tuple(values) for name, values in vocabulary.items()}
        self.shape = {"width": width, "features": features}
        self.trunk = Trunk(width, features)
        self.heads = nn.Linear(features, sum(len(values) for values in self.vocabulary.values()))

    def forward(self, images: Tensor) -> Tensor:
        """[N,3,64,64] in 0..1 to all logits side by side, [N, sum of values]."""
        logits: Tensor = self.heads(functional.relu(self.trunk(images)))
        return logits

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """[N,3,H,W] in 0..1 to the logits [N, values] of each attribute. UserError for other shapes."""
        return self.split(self(check_images(images)))

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """The columns of `forward` by attribute."""
        sizes = [len(values) for values in self.vocabulary.values()]
        return dict(zip(self.vocabulary, logits.split(sizes, dim=1), strict=True))

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """[N,3,H,W] in 0..1 to the most likely value's index, int64 [N], of each attribute."""
        return {name: logits.argmax(dim=1) for name, logits in self.logits(images).items()}

    def names(self, images: Tensor) -> list[dict[str, str]]:
        """The most likely values by name, a dictionary for each picture."""
        columns = {name: indices.tolist() for name, indices in self.predict(images).items()}
        return [
            {name: self.vocabulary[name][column[row]] for name, column in columns.items()} for row in range(len(images))
        ]

    def probability(self, images: Tensor, attribute: str, value: str) -> Tensor:
        """How likely each picture shows `value`, [N] in 0..1. UserError for an unknown attribute or value."""
        values = self.vocabulary.get(attribute)
        if values is None or value not in values:
            known = ", ".join(values if values is not None else self.vocabulary)
            raise UserError(f"The classifier knows no {attribute!r} with value {value!r}; give one of {known}.")
        return self.logits(images)[attribute].softmax(dim=1)[:, values.index(value)]


def load(folder: Path | None = None) -> AttributeClassifier:
    """The stored classifier (the embedded one by default), frozen and in evaluation mode.

    Raises UserError when the folder holds no classifier.
    """
    folder = WEIGHTS / "attributes" if folder is None else Path(folder)
    config = read_config(folder, KIND)
    vocabulary, shape = config["vocabulary"], config["shape"]
    assert isinstance(vocabulary, dict) and isinstance(shape, dict)
    model = AttributeClassifier(vocabulary, width=int(shape["width"]), features=int(shape["features"]))
    read_weights(folder, model)
    return model


def build(settings: BuildSettings) -> None:
    """Train on the avatars and export weights, configuration and card with the measured accuracies."""
    torch.manual_seed(settings.seed)
    train, validation = load_avatars("train"), load_avatars("validation")
    accelerator = Accelerator()
    model = AttributeClassifier()
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    network, prepared = accelerator.prepare(channels_last(model), optimiser)

    def step_fn(step: int) -> dict[str, float]:
        network.train()
        generator = step_generator(settings.seed, step)
        chosen = np.sort(torch.randint(len(train), (batch,), generator=generator).numpy())
        order = torch.randperm(batch, generator=generator)
        images = augment(to_tensor(train.images[chosen])[order], generator)
        truth = torch.from_numpy(train.attributes[chosen])[order]
        for group in prepared.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, steps)
        images = images.to(accelerator.device).contiguous(memory_format=torch.channels_last)
        losses = attribute_losses(model.split(network(images)), truth.to(accelerator.device))
        prepared.zero_grad()
        loss = torch.stack(list(losses.values())).sum()
        accelerator.backward(loss)
        prepared.step()
        return {"loss": loss.item()} | {name: value.item() for name, value in losses.items()}

    reached, seconds = train_loop(
        step_fn,
        state={"model": model, "optimiser": prepared},
        steps=steps,
        settings=settings,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        accuracies = measure(model.cpu(), validation)
        config = {"kind": KIND, "vocabulary": model.vocabulary, "shape": model.shape, "size": 64}
        card = _card(model, accuracies, reached, batch, seconds, len(train))
        save_model(settings.out, model, config, card)


def attribute_losses(logits: Mapping[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of each attribute; truth: int64 [N, A]. Eyes behind dark lenses do not count."""
    columns = dict(zip(ATTRIBUTES, truth.T, strict=True))
    columns["eyes"] = columns["eyes"].masked_fill(_behind_sunglasses(truth), -100)
    return {name: functional.cross_entropy(logits[name], columns[name]) for name in ATTRIBUTES}


@torch.no_grad()
def measure(model: AttributeClassifier, data: AvatarSet) -> dict[str, float]:
    """Share of right answers for each attribute, 0..1, eyes where they are not behind dark lenses."""
    model.eval()
    truth = torch.from_numpy(np.array(data.attributes))
    parts = [model.predict(part) for part in batches(to_tensor(data.images))]
    right = {
        name: torch.cat([part[name] for part in parts]) == column
        for name, column in zip(ATTRIBUTES, truth.T, strict=True)
    }
    right["eyes"] = right["eyes"][~_behind_sunglasses(truth)]
    return {name: value.float().mean().item() for name, value in right.items()}


def schedule(step: int, steps: int, *, warm_up: int = 50) -> float:
    """Learning rate factor: linear warm-up, then half a cosine to nearly zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + float(np.cos(np.pi * min(step / max(steps, 1), 1.0)))) + 1e-3


def _behind_sunglasses(truth: Tensor) -> Tensor:
    column = list(ATTRIBUTES).index("glasses")
    return truth[:, column] == ATTRIBUTES["glasses"].index("sunglasses")


def _card(
    model: AttributeClassifier,
    accuracies: Mapping[str, float],
    steps: int,
    batch: int,
    seconds: float,
    pictures: int,
) -> str:
    rows = "\n".join(f"| {name} | {100 * value:.1f} % |" for name, value in accuracies.items())
    mean = 100 * sum(accuracies.values()) / len(accuracies)
    return f"""# avatars/attributes

Says which of the {len(ATTRIBUTES)} attributes of an avatar a picture of 64 x 64 shows.

- Network: convolutions on a grid of 32, 16 and 8, {parameters_of(model):,} parameters, one linear head
  for each attribute; stored as fp16.
- Data: {pictures:,} training pictures of the avatars data set, with small shifts, blur, noise, brightness
  and block compression; no flips.
- Training: {steps} steps of {batch} pictures, AdamW, {seconds / 60:.1f} minutes.
- Made by: `{COMMAND}`
- Not known to it, as kept out of training: the hair styles {", ".join(HELD_OUT_HAIR)}.

Accuracy on the validation people (none in training, nor anyone of the same attributes); mean {mean:.2f} %:

| attribute | accuracy |
|---|---|
{rows}

Eyes are counted where no dark lenses hide them.
"""
