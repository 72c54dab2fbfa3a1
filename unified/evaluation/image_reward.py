"""ImageReward (Xu et al. 2023): how much people would like a picture made for a prompt, by the authors' own package.

The package `image-reward` brings the network (BLIP with a head, section 3.1) and its preprocessing; its weights are
downloaded by it, or given as a file. It is asked for nothing but the reward of one picture and one prompt, which it
normalises to mean 0 and deviation 1 over its training data. It is not a dependency: it asks for versions of timm
and transformers that are older than those used here, so that an environment of its own may be needed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unified.errors import UserError
from unified.evaluation.subjects import Subject
from unified.evaluation.table import Measured, Result
from unified.images import read_images, to_pil
from unified.metrics.bootstrap import mean_interval
from unified.metrics.score import Score

WEIGHTS = "ImageReward-v1.0"
AVERAGING = "images > prompts > subjects"


class Reward(Protocol):
    """The reward of a picture [3,H,W] in 0..1 for a prompt. `name`: of the weights."""

    @property
    def name(self) -> str: ...

    def __call__(self, prompt: str, picture: Tensor) -> float: ...


class PackagedReward:
    """The model of the package, frozen."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.model = model

    @torch.no_grad()
    def __call__(self, prompt: str, picture: Tensor) -> float:
        return float(self.model.score(prompt, to_pil(picture)[0]))


def load(weights: str | Path = WEIGHTS, *, med_config: str | Path | None = None) -> PackagedReward:
    """The model of the installed package `image-reward`.

    weights: a name that the package knows, or a file of them; med_config: BLIP's settings as a file; default: the
    package's download. Raises UserError, naming the package, where it is not installed or does not import, and
    where the weights cannot be had.
    """
    module = _package()
    settings = {} if med_config is None else {"med_config": str(med_config)}
    try:
        model = module.load(str(weights), **settings)
    except Exception as error:  # no network, no file, a damaged one: all are put right alike
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The ImageReward weights {weights} cannot be had ({reason}): give their file with --weights and"
            " med_config.json with --med-config, or let the package download them while there is a network."
        ) from error
    return PackagedReward(Path(weights).name, model)


def _package() -> Any:
    try:
        return importlib.import_module("ImageReward")
    except ModuleNotFoundError as error:
        if error.name == "ImageReward":
            raise UserError(
                "ImageReward needs the package image-reward, which is not installed: install it with `pip install"
                " image-reward`, best into an environment of its own, as it asks for old versions of other packages."
            ) from error
        raise UserError(_broken(error)) from error
    except ImportError as error:
        raise UserError(_broken(error)) from error


def _broken(error: ImportError) -> str:
    return (
        f"The package image-reward is installed and cannot be imported ({error}): it asks for old versions of timm and"
        " transformers; install them with it into an environment of its own."
    )


def evaluate(
    subjects: Sequence[Subject],
    reward: Reward,
    *,
    run: str,
    protocol: str,
    done: Callable[[str], None] = lambda name: None,
) -> Result:
    """The mean reward over the pictures of a prompt, then prompts, then subjects, with an interval over subjects.

    Prompts are the subjects' texts without any identifier. protocol: whose subjects and prompts they are.
    """
    if not subjects:
        raise UserError("There is nothing to measure: give at least one subject.")
    values = []
    for subject in subjects:
        prompts = [
            _mean([reward(text, read_images(path)[0]) for path in paths])
            for text, paths in zip(subject.texts, subject.generated, strict=True)
        ]
        values.append(_mean(prompts))
        done(subject.name)
    score = Score(_mean(values), "image-reward", reward.name, AVERAGING)
    interval = mean_interval(values) if len(values) > 1 else None
    return Result(run, protocol, {"image-reward": Measured(score, interval, len(values))})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
