"""What the diffusion trainings share: pictures with captions, batches, schedules and export."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unified.zoo.training import BuildSettings, step_generator

Row = Mapping[str, str]
Captioner = Callable[[Row, random.Random], str]


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures and what can be said about them.

    images: uint8 [N, H, W, 3]. labels: int64 [N, A], the value index of each attribute.
    attributes: attribute name -> its values, in the order of the columns of `labels`.
    caption: writes a sentence about a row {attribute: value}.
    prompt: the plain sentence that asks for one value of one attribute, "a person wearing sunglasses".
    """

    images: np.ndarray
    labels: np.ndarray
    attributes: Mapping[str, tuple[str, ...]]
    caption: Captioner
    prompt: Callable[[str, str], str]

    def __len__(self) -> int:
        return len(self.images)

    def row(self, index: int) -> dict[str, str]:
        """The attributes of one picture in words."""
        named = zip(self.attributes.items(), self.labels[index], strict=True)
        return {name: values[int(value)] for (name, values), value in named}

    def tensor(self, indices: Tensor) -> Tensor:
        """Pictures as float [B, 3, H, W] in -1..1."""
        # Fancy indexing copies, so that a read-only memory map is not handed to torch.
        chosen = torch.from_numpy(np.asarray(self.images[indices.numpy()]))
        return chosen.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)

    def classes(self, name: str) -> tuple[Tensor, list[str]]:
        """(targets int64 [N], prompts of the values of one attribute that occur in these pictures)."""
        column = torch.as_tensor(self.labels[:, list(self.attributes).index(name)])
        present, targets = column.unique(return_inverse=True)
        return targets, [self.prompt(name, self.attributes[name][int(value)]) for value in present]

    def captions(self, indices: Tensor, *, generator: torch.Generator) -> list[str]:
        """One freshly drawn caption per picture."""
        seeds = torch.randint(2**62, (len(indices),), generator=generator).tolist()
        return [
            self.caption(self.row(int(index)), random.Random(seed)) for index, seed in zip(indices, seeds, strict=True)
        ]


def avatars(split: str) -> Pictures:
    """The avatars of one split ("train" or "validation")."""
    from unified.avatars import attributes, captions, dataset

    def prompt(name: str, value: str) -> str:
        return f"{captions.SUBJECT} {captions.phrase(name, value)}"

    data = dataset.load(split)
    labels = np.array(data.attributes)
    return Pictures(data.images, labels, attributes.ATTRIBUTES, captions.caption, prompt)


def batch_generator(seed: int, step: int, *, process: int = 0, stream: int = 0) -> torch.Generator:
    """The random numbers of one step on one process of a distributed run."""
    return step_generator(seed, step, stream=stream + 64 * process)


def draw(pictures: Pictures, batch: int, *, generator: torch.Generator) -> Tensor:
    """Indices [batch] of pictures drawn with replacement."""
    return torch.randint(len(pictures), (batch,), generator=generator)


def cosine(share: float, *, floor: float = 0.01) -> float:
    """Falls from 1 to `floor` as the share of the training that is done goes from 0 to 1."""
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


class Clock:
    """How much of a training is done: steps taken, or minutes spent if those are limited and run out first.

    So a training that is cut short by `settings.minutes` still ends with a small learning rate. Without that
    limit the learning rate is a function of the step alone.
    """

    def __init__(self, settings: BuildSettings, steps: int) -> None:
        self.minutes = settings.minutes
        self.steps = steps
        self.started: float | None = None

    def share(self, step: int) -> float:
        """0 at the beginning, 1 at the end."""
        done = step / self.steps
        if self.minutes is None:
            return done
        if self.started is None:
            self.started = time.monotonic()
        return max(done, (time.monotonic() - self.started) / (60 * self.minutes))

    def learning_rate(self, step: int, *, peak: float, warmup: int) -> float:
        """Linear warm-up over `warmup` steps under a cosine from `peak` to nearly zero."""
        return peak * min(1.0, (step + 1) / warmup) * cosine(self.share(step))

    def rate(self, *, peak: float, warmup: int) -> Callable[[int], float]:
        """`learning_rate` as a function of the step alone."""
        return lambda step: self.learning_rate(step, peak=peak, warmup=warmup)


def decay_groups(module: nn.Module, *, weight_decay: float, factor: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: weight decay on matrices and kernels only, not on gains and biases."""
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    plain = [value for name, value in named if value.ndim < 2 or "embedding" in name]
    decayed = [value for name, value in named if not (value.ndim < 2 or "embedding" in name)]
    return [
        {"params": decayed, "weight_decay": weight_decay, "factor": factor},
        {"params": plain, "weight_decay": 0.0, "factor": factor},
    ]


def halved(module: nn.Module) -> Any:
    """A half-precision copy for export."""
    return copy.deepcopy(module).eval().half()


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(value.numel() for value in module.parameters())


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    previous = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def write_scores(folder: Path, scores: Mapping[str, Any]) -> None:
    """scores.json: what was measured, for programs; the card says it for people."""
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def declare_float32(config: Path) -> None:
    """Make a transformers configuration ask for float32, whatever the weights are stored in.

    Otherwise transformers loads half-precision files as half precision, and diffusers as float32.
    """
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        if part in values:
            values[part]["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def some_empty(captions: Sequence[str], share: float, *, generator: torch.Generator) -> list[str]:
    """The captions with about `share` of them left out, for guidance."""
    silent = (torch.rand(len(captions), generator=generator) < share).tolist()
    return ["" if empty else text for text, empty in zip(captions, silent, strict=True)]
