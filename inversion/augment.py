"""Changing the pictures from step to step, so that their place and size are not learnt with the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from unified.contract.random import Random
from unified.contract.reference import Reference


class Augmentation(Protocol):
    """Another look at a mini-batch: changed pictures, masks where they count, and prompts that say so."""

    def __call__(self, reference: Reference, prompts: Sequence[str], *, rng: Random) -> tuple[Reference, list[str]]: ...


@dataclass(frozen=True)
class Rescale:
    """Random size and place, told to the prompt (Kumari et al. 2023, Custom Diffusion, section 4, training details).

    With probability `small` a picture is shrunk to a side in [1/3, 1] and put somewhere on grey, else it is
    enlarged 1.2 to 1.4 times and cut. Below 0.6 the prompt begins with "a far away" or "a very small", enlarged
    with "zoomed in" or "close up". The mask is 1 on the picture, 0 on the grey around it (times its own mask).
    """

    small: float = 2 / 3

    def __call__(self, reference: Reference, prompts: Sequence[str], *, rng: Random) -> tuple[Reference, list[str]]:
        numbers = rng.uniform(reference.keys, (5,)).tolist()
        images, masks, texts = [], [], []
        own = torch.ones_like(reference.images[:, :1]) if reference.masks is None else reference.masks
        for image, mask, prompt, drawn in zip(reference.images, own, prompts, numbers, strict=True):
            shrink, size, row, column, wording = drawn
            scale = 1 / 3 + size * 2 / 3 if shrink < self.small else 1.2 + size * 0.2
            words = ("",) if 0.6 <= scale <= 1 else (("a far away ", "a very small ") if scale < 1 else _LARGE)
            images.append(_placed(image, scale, row, column, ground=0.5))
            masks.append(_placed(mask.to(image.dtype), scale, row, column, ground=0.0))
            texts.append(words[int(wording * len(words))] + prompt)
        changed = Reference(
            images=torch.stack(images),
            masks=torch.stack(masks),
            captions=reference.captions,
            category=reference.category,
            name=reference.name,
            index=reference.index,
            names=reference.names,
            keys=reference.keys,
        )
        return changed, texts


_LARGE = ("zoomed in ", "close up ")


def _placed(image: Tensor, scale: float, row: float, column: float, *, ground: float) -> Tensor:
    """[C,H,W] scaled, and cut or put on a ground of its own size at the place (row, column), each in 0..1."""
    height, width = image.shape[-2:]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = functional.interpolate(image[None], size=size, mode="bilinear", antialias=scale < 1)[0]
    top, left = round(row * abs(height - size[0])), round(column * abs(width - size[1]))
    if scale >= 1:
        return scaled[:, top : top + height, left : left + width]
    canvas = torch.full_like(image, ground)
    canvas[:, top : top + size[0], left : left + size[1]] = scaled
    return canvas
