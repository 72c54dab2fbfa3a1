"""StyleAligned (Hertz et al. 2024): pictures of one style, by attention shared with the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.attention.pairs import decoded
from unified.contract.abilities import Attends, Denoises, ReadsByLayer
from unified.contract.attention import Attention, Editor, Place
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.sampler import sample_rows
from unified.errors import UserError


class SharedAttention(Editor):
    """Every picture also attends to the first one, its queries and keys normalised to the first's (equations 4, 5).

    pictures: how many there are in each part of a batch (with guidance there are two parts).
    """

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures

    def wants(self, place: Place) -> bool:
        return place.kind == "self"

    def project(self, call: Attention) -> None:
        query, key, value = (self._first(part) for part in (call.query, call.key, call.value))
        call.query = adain(call.query, query)
        call.key = torch.cat([adain(call.key, key), key], 2)
        call.value = torch.cat([call.value, value], 2)
        call.picture = slice(0, call.key.shape[2])

    def _first(self, rows: Tensor) -> Tensor:
        """The first picture of a row's part, for every row."""
        return rows[:: self.pictures].repeat_interleave(self.pictures, 0)


def adain(value: Tensor, like: Tensor) -> Tensor:
    """`value` [B, heads, tokens, width] with the mean and deviation over tokens of `like`."""
    mean, deviation = value.mean(2, keepdim=True), value.std(2, keepdim=True)
    return (value - mean) / deviation.clamp(min=1e-6) * like.std(2, keepdim=True) + like.mean(2, keepdim=True)


@dataclass(frozen=True)
class StyleAligned(Scheme):
    """n pictures of the prompt in the style of one reference, which `target.source` describes.

    The reference is made along with them and not returned; without a source, the first picture is it.
    """

    name: ClassVar[str] = "style-aligned"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, ReadsByLayer)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        if not target.prompt:
            raise UserError("Pictures in one style need a prompt, and none was given: say what they shall show.")
        leading = [target.source] if target.source else []
        prompts = [*leading, *[target.prompt] * (target.n or 1)]
        with backbone.bound(*concepts) as view, torch.no_grad():
            view.edit_attention(SharedAttention(len(prompts)))
            found = sample_rows(view, target, prompts, rng=rng)
            return decoded(backbone, view, found[len(leading) :])


schemes.register(StyleAligned.name, StyleAligned())
