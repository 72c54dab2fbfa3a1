"""How often a trained text-to-image model draws what it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from backbones.diffusion.train import clip as clip_training
from backbones.diffusion.train.common import Pictures

_TOGETHER = 32  # pictures drawn in one call


@torch.no_grad()
def agreement(
    draw: Callable[[Sequence[str], int], Tensor],
    judge: CLIPModel,
    tokenizer: CLIPTokenizer,
    *,
    pictures: Pictures,
    validation: Pictures,
    samples: int = 64,
) -> dict[str, Any]:
    """Share of samples in which `judge`, zero-shot, finds the value of an attribute that was asked for.

    draw: (prompts, seed) -> pictures [N,3,H,W] in -1..1.

    Each prompt asks for one value of one attribute, in turn over the attributes; the judge chooses between
    all values that occur in `pictures`. Beside it, what the judge finds on real pictures: its own ceiling.
    """
    names = list(pictures.attributes)
    classes = {name: pictures.classes(name)[1] for name in names}
    asked = [names[index % len(names)] for index in range(samples)]
    wanted = [(index // len(names)) % len(classes[name]) for index, name in enumerate(asked)]
    prompts = [classes[name][value] for name, value in zip(asked, wanted, strict=True)]
    images = torch.cat([draw(prompts[at : at + _TOGETHER], at) for at in range(0, samples, _TOGETHER)])
    features = clip_training.picture_features(judge, images)
    found: dict[str, list[bool]] = {name: [] for name in names}
    for name, value, feature in zip(asked, wanted, features, strict=True):
        ids = clip_training.tokenize(tokenizer, classes[name])
        guess = (clip_training.text_features(judge, ids) @ feature).argmax()
        found[name].append(int(guess) == value)
    ceiling = clip_training.evaluate(judge, tokenizer, validation, limit=512)
    return {
        "agreement": {name: round(sum(hits) / len(hits), 3) for name, hits in found.items() if hits},
        "judge": "avatars/clip, zero-shot",
        "judge_on_real_pictures": ceiling["zero_shot_accuracy"],
        "samples": samples,
    }
