"""The user's pictures of a concept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unified.errors import UserError


def _rows(value: Any, index: list[int]) -> Any:
    """Select rows from a tensor or from every tensor of a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, dict):
        return {key: _rows(item, index) for key, item in value.items()}
    return type(value)(_rows(item, index) for item in value)


@dataclass(eq=False)
class Reference:
    """Pictures of one concept.

    images: [N,3,H,W] in 0..1. masks: [N,1,H,W] in 0..1 (1 = concept) or None.
    captions: one text per picture or None. category: class word ("person").
    name: what stands for the concept in prompts. index: which pictures of the whole a mini-batch holds.
    names, keys: name and random stream of each picture; they differ from `name` and the picture's number only
    where several concepts are joined, so that each gets the random numbers that it gets alone.
    """

    images: Tensor
    masks: Tensor | None = None
    captions: tuple[str, ...] | None = None
    category: str = ""
    name: str = "<me>"
    index: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _whole: Reference | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or len(self.images) == 0:
            raise UserError(
                f"Pictures of shape {tuple(self.images.shape)} were given; expected [N, 3, height, width] with"
                " N >= 1. Add the batch axis, or convert with unified.images.read_images."
            )
        if self.masks is not None and len(self.masks) != len(self.images):
            raise UserError(f"{len(self.masks)} masks were given for {len(self.images)} pictures: give one each.")
        if self.captions is not None and len(self.captions) != len(self.images):
            raise UserError(f"{len(self.captions)} captions were given for {len(self.images)} pictures: one each.")
        self.index = self.index or tuple(range(len(self.images)))
        self.keys = self.keys or self.index
        self.names = self.names or (self.name,) * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, index: Sequence[int]) -> Reference:
        """A mini-batch of the whole reference; `index` counts in the whole."""
        whole = self._whole or self
        rows = list(index)
        return Reference(
            images=whole.images[rows],
            masks=None if whole.masks is None else whole.masks[rows],
            captions=None if whole.captions is None else tuple(whole.captions[i] for i in rows),
            category=whole.category,
            name=whole.name,
            index=tuple(rows),
            names=tuple(whole.names[i] for i in rows),
            keys=tuple(whole.keys[i] for i in rows),
            _whole=whole,
        )

    def once(self, key: Hashable, compute: Callable[[Tensor], Any]) -> Any:
        """`compute(images)`, done once for all pictures and without gradient; returns this batch's rows.

        For what does not change between steps: latents, token ids, perceptual features of the target.
        `compute` returns a tensor or a tuple, list or mapping of tensors with the pictures on axis 0.
        """
        whole = self._whole or self
        if key not in whole._cache:
            with torch.no_grad():
                whole._cache[key] = compute(whole.images)
        value = whole._cache[key]
        if len(self.index) == len(whole.images) and self.index == whole.index:
            return value
        return _rows(value, list(self.index))


def join(references: Sequence[Reference]) -> Reference:
    """The pictures of several concepts as one reference; each keeps its name and its random streams.

    Masks and captions are kept only if all references have them. Raises UserError for different sizes.
    """
    if len(references) == 1:
        return references[0]
    sizes = {tuple(r.images.shape[1:]) for r in references}
    if len(sizes) > 1:
        raise UserError(f"Pictures of different sizes {sorted(sizes)} cannot be inverted in one batch: resize them.")
    masks = [r.masks for r in references if r.masks is not None]
    captions = [r.captions for r in references if r.captions is not None]
    whole = len(references)
    return Reference(
        images=torch.cat([r.images for r in references]),
        masks=torch.cat(masks) if len(masks) == whole else None,
        captions=tuple(c for each in captions for c in each) if len(captions) == whole else None,
        category=references[0].category,
        name=references[0].name,
        names=tuple(name for r in references for name in r.names),
        keys=tuple(key for r in references for key in r.keys),
    )
