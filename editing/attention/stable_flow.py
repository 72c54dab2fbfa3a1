"""Stable Flow (Avrahami et al. 2024): the source's attention in the few layers that matter, found by measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.attention.pairs import Pairs, check_source, decoded
from unified.contract.abilities import Attends, Denoises, Reads
from unified.contract.attention import Attention, Editor, Place
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.sampler import pictures_in, sample_pair
from unified.metrics.lpips import embedded_lpips

#: What is drawn to measure the layers by: everyday things, as the paper's 64 prompts.
PROMPTS = ("a photo of a dog", "a person with a hat", "a house by the sea", "a table with a book")
_SIDE = 64  # pictures are compared at this size at least


class Bypass(Editor):
    """Lets one attention say nothing: its values are zero, and the residual stream passes by."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def wants(self, place: Place) -> bool:
        return place == self.place

    def project(self, call: Attention) -> None:
        call.value = torch.zeros_like(call.value)


class SourceContents(Editor):
    """At some places the target's picture tokens have the keys and values of the source's (section 4.2)."""

    def __init__(self, pairs: Pairs, places: Sequence[Place]) -> None:
        self.pairs, self.places = pairs, frozenset(places)

    def wants(self, place: Place) -> bool:
        return place in self.places

    def project(self, call: Attention) -> None:
        call.key, call.value = self._carried(call.key, call.picture), self._carried(call.value, call.picture)

    def _carried(self, rows: Tensor, picture: slice) -> Tensor:
        found = rows.clone()
        for source, target in zip(self.pairs.sources(len(rows)), self.pairs.targets(len(rows)), strict=True):
            found[target, :, picture] = rows[source, :, picture]
        return found


def vitality(
    backbone: Backbone,
    *,
    prompts: Sequence[str] = PROMPTS,
    steps: int = 8,
    seed: int = 0,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[Place, float]:
    """How much the pictures of some prompts change when a layer is bypassed, for each of them (section 4.1).

    The change is the mean perceptual distance to the same pictures with all layers: LPIPS, where the paper has
    DINOv2. A layer is bypassed by its attention saying nothing, where the paper leaves out the whole block. Once a
    backbone; costs (layers + 1) times the prompts' samples.
    """
    assert isinstance(backbone, Attends)
    places = [place for place in backbone.places() if place.kind != "cross"]
    measure = distance or _perceptual

    def drawn(*editors: Editor) -> Tensor:
        found = []
        with backbone.bound() as view:
            if editors:
                view.edit_attention(*editors)
            for number, prompt in enumerate(prompts):
                target = Target(prompt=prompt, n=1, sampling={"steps": steps})
                found.append(view.sample(target, rng=Random(seed).child("vital", number)))
        return torch.cat(found)

    def measured() -> dict[Place, float]:
        whole = drawn()
        return {place: float(measure(drawn(Bypass(place)), whole).mean()) for place in places}

    if distance is not None:
        return measured()
    return backbone.once(("vitality", tuple(prompts), steps, seed), measured)


def _perceptual(a: Tensor, b: Tensor) -> Tensor:
    side = max(_SIDE, a.shape[-1])
    wide = [functional.interpolate(part.float(), size=(side, side), mode="bilinear") for part in (a, b)]
    found: Tensor = embedded_lpips()(*wide)
    return found


@dataclass(frozen=True)
class StableFlow(Scheme):
    """The target's prompt, with keys and values of the source's picture in its vital layers.

    share: of the layers, those that count as vital (the paper finds 13 of FLUX's 57). Nudging the latents of an
    inverted picture (times 1.15, section 4.3) is left out: invert with a method that is exact instead.
    """

    name: ClassVar[str] = "stable-flow"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    share: float = 13 / 57

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        check_source(target, concepts)
        with torch.no_grad():
            places = most_vital(vitality(backbone), self.share)
            with backbone.bound(*concepts) as view:
                view.edit_attention(SourceContents(Pairs(target.n or pictures_in(view)), places))
                _, found = sample_pair(view, target, rng=rng)
                return decoded(backbone, view, found)


def most_vital(found: dict[Place, float], share: float) -> list[Place]:
    """The `share` of the places, at least one, with the largest change."""
    count = max(1, round(share * len(found)))
    return sorted(found, key=lambda place: -found[place])[:count]


schemes.register(StableFlow.name, StableFlow())
