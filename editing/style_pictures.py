"""Concepts whose pictures are to lend their style, and the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unified.contract.concept import Concept

_SPACE = "latents"


def style_refusal(concepts: Sequence[Concept], recipe: str) -> str | None:
    if any(code.space == _SPACE for concept in concepts for code in concept.codes):
        return None
    return f"it takes the style of a picture, and no concept brings one: invert it with the recipe {recipe!r}"


def apart(concepts: Sequence[Concept]) -> tuple[Tensor, float, list[Concept]]:
    """(latents of the style's pictures, the weight of the first such concept, what else is to be bound)."""
    styles = [concept for concept in concepts if any(code.space == _SPACE for code in concept.codes)]
    latents = [code.tensors["latents"] for concept in styles for code in concept.codes if code.space == _SPACE]
    others = []
    for concept in concepts:
        rest = [code for code in concept.codes if code.space != _SPACE]
        if rest:
            others.append(concept.with_codes(rest))
    return torch.cat(latents), styles[0].weight, others
