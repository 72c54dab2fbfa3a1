"""Training sequences of avatars/emu3: captioned pictures, a part of them with reference pictures in context.

A batch is a pure function of (seed, step, process). All sequences of a step have the same number of
references, so that little is padded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.layout import VisualVocabulary
from backbones.autoregressive.prompt import PromptBuilder
from unified.avatars.attributes import PERSON_ATTRIBUTES, VARYING_ATTRIBUTES
from unified.avatars.captions import SUBJECT, caption
from unified.zoo.training import step_generator

IGNORED = -100  # the label that transformers' loss leaves out


class Pictures(Protocol):
    """What is needed of an AvatarSet."""

    @property
    def person(self) -> numpy.ndarray: ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, str]: ...


@dataclass(frozen=True)
class SequenceSettings:
    """one_reference, two_references: share of the steps with that many pictures of the person in context.
    no_text: share of the sequences whose text is dropped, for guidance (Ho and Salimans 2022).
    keep_same: how often a varying attribute that equals the reference's is said all the same.
    keep_person: how often a person attribute is said beside a reference.
    """

    one_reference: float = 0.2
    two_references: float = 0.05
    no_text: float = 0.1
    keep_same: float = 0.5
    keep_person: float = 0.15


@dataclass(frozen=True)
class Example:
    """text; references: indices of pictures in context; target: index of the picture to learn."""

    text: str
    references: tuple[int, ...]
    target: int


def by_person(person: numpy.ndarray) -> list[numpy.ndarray]:
    """The picture indices of each person."""
    order = numpy.argsort(person, kind="stable")
    return numpy.split(order, numpy.flatnonzero(numpy.diff(person[order])) + 1)


def reference_text(text: str, name: str) -> str:
    """A caption about "a person" said of the person in the references instead."""
    return text.replace(SUBJECT, name, 1)


def changed_row(
    row: Mapping[str, str], reference: Mapping[str, str], rng: random.Random, settings: SequenceSettings
) -> dict[str, str]:
    """The part of `row` to be said beside a reference: mostly what differs."""
    said = {}
    for name, value in row.items():
        if name in VARYING_ATTRIBUTES:
            keep = value != reference[name] or rng.random() < settings.keep_same
        else:
            keep = name in PERSON_ATTRIBUTES and rng.random() < settings.keep_person
        if keep:
            said[name] = value
    return said


def draw_examples(
    data: Pictures,
    people: Sequence[numpy.ndarray],
    *,
    count: int,
    seed: int,
    step: int,
    process: int,
    reference_name: str,
    settings: SequenceSettings,
) -> list[Example]:
    """The examples of one step on one process."""
    # The number of references is drawn alike on all processes.
    level = torch.rand((), generator=step_generator(seed, step, stream=7000)).item()
    pair = level < settings.two_references
    references = 2 if pair else int(level < settings.two_references + settings.one_reference)
    rng = random.Random(f"{seed} {step} {process}")
    examples = []
    for _ in range(count):
        own = people[rng.randrange(len(people))]
        picks = rng.sample(range(len(own)), min(references + 1, len(own)))
        target, *others = (int(own[pick]) for pick in picks)
        row = data.row(target)
        if others:
            said = changed_row(row, data.row(others[0]), rng, settings)
            text = reference_text(caption(said, rng), reference_name)
        else:
            text = caption(row, rng)
        if rng.random() < settings.no_text:
            text = ""
        examples.append(Example(text, tuple(others), target))
    return examples


def collate(
    examples: Sequence[Example], codes: Callable[[int], Tensor], prompts: PromptBuilder
) -> tuple[Tensor, Tensor]:
    """Token ids and labels [B,L], padded on the right; labels count the target picture and its ending only.

    codes: picture index -> codes [h,w]. On the right padding needs no mask: attention is causal.
    """
    sequences = []
    for example in examples:
        prompt = prompts.prompt_ids(example.text, [codes(index) for index in example.references])
        target = codes(example.target)
        slots = prompts.slots(*target.shape)
        slots[slots == -1] = prompts.vocabulary.to_ids(target.flatten())
        sequences.append((prompt, [*slots.tolist(), *prompts.ending()]))
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids = torch.full((len(sequences), longest), prompts.pad)
    labels = torch.full((len(sequences), longest), IGNORED)
    for row, (prompt, answer) in enumerate(sequences):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def label_weights(labels: Tensor, vocabulary: VisualVocabulary, focus: Tensor) -> Tensor:
    """Weights [B,L] of labels [B,L]: `focus` [h,w] over the visual tokens of a picture, 1 for its other tokens."""
    weights = (labels != IGNORED).to(focus)
    weights[torch.isin(labels, vocabulary.ids.to(labels.device))] = focus.flatten().repeat(len(labels))
    return weights


def next_token_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the nats of the labels [B,L] under logits [B,L,V]; position i predicts label i + 1."""
    nats = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    chosen = weights[:, 1:].flatten()
    return (nats * chosen).sum() / chosen.sum()
