"""Who judges text-driven edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TextScorer(Protocol):
    """Pictures [N,3,H,W] in 0..1 and texts as unit vectors of one space."""

    def image_features(self, images: Tensor) -> Tensor: ...

    def text_features(self, texts: Sequence[str]) -> Tensor: ...


class PictureScorer(Protocol):
    """Pictures [N,3,H,W] in 0..1 as unit vectors, and as tokens of their parts."""

    def image_features(self, images: Tensor) -> Tensor: ...

    def image_tokens(self, images: Tensor, *, layer: int | None = None) -> Tensor:
        """[N, tokens, width] after `layer` layers; None: after a quarter of them."""
        ...


class Perception(Protocol):
    """Perceptual distances [N] of pictures [N,3,H,W] in 0..1 from others."""

    def __call__(self, one: Tensor, other: Tensor) -> Tensor: ...


class Embedder(Protocol):
    """Pictures [N,3,H,W] in 0..1 as unit vectors that say who is shown."""

    def embed(self, images: Tensor) -> Tensor: ...


def embedded_clip() -> TextScorer:
    """avatars/clip. Raises UserError, saying how to build it, if it is not there."""
    from unified.extractors import clip

    return clip.load()


def embedded_clip_tokens() -> PictureScorer:
    """avatars/clip, as one that tells tokens too. Raises UserError, saying how to build it, if it is not there."""
    from unified.extractors import clip

    return clip.load()


def embedded_perception() -> Perception:
    """LPIPS, from inside the package."""
    from unified.metrics.lpips import embedded_lpips

    return embedded_lpips()


def embedded_identity() -> Embedder | None:
    """avatars/identity; None if it has not been built: edits then have no identity term."""
    from unified.extractors import identity
    from unified.zoo.registry import WEIGHTS

    return identity.load() if (WEIGHTS / "identity" / "config.json").exists() else None
