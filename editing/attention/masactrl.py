"""MasaCtrl (Cao et al. 2023): the target looks its contents up in the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.attention.pairs import Pairs, check_source, decoded
from unified.contract.abilities import Attends, Denoises, ReadsByLayer
from unified.contract.attention import Attention, Editor, Place
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.sampler import pictures_in, sample_pair


class MutualSelfAttention(Editor):
    """The target's queries attend to the source's keys and values (equation 3), with and without the prompt.

    layer: the first of the self-attentions in which they do; start: from which share of the sampling on.
    """

    def __init__(self, pairs: Pairs, *, layer: int, start: float) -> None:
        self.pairs, self.layer, self.start = pairs, layer, start

    def wants(self, place: Place) -> bool:
        return place.kind == "self" and place.number >= self.layer

    def project(self, call: Attention) -> None:
        if 1 - float(call.time[0]) < self.start:
            return
        call.key, call.value = self._looked_up(call.key), self._looked_up(call.value)

    def _looked_up(self, rows: Tensor) -> Tensor:
        return torch.cat([rows[part] for source in self.pairs.sources(len(rows)) for part in (source, source)])


@dataclass(frozen=True)
class MasaCtrl(Scheme):
    """The target's layout from its prompt, its contents from the source (section 3.1, without the mask of 3.2).

    start: share of the sampling after which the source is looked up (4 of 50 steps). layer: share of the
    self-attentions before the first that looks it up (10 of 16).
    """

    name: ClassVar[str] = "masactrl"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, ReadsByLayer)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    start: float = 4 / 50
    layer: float = 10 / 16

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        check_source(target, concepts)
        assert isinstance(backbone, Attends)
        own = sum(place.kind == "self" for place in backbone.places())
        with backbone.bound(*concepts) as view, torch.no_grad():
            pairs = Pairs(target.n or pictures_in(view))
            view.edit_attention(MutualSelfAttention(pairs, layer=round(self.layer * own), start=self.start))
            _, found = sample_pair(view, target, rng=rng)
            return decoded(backbone, view, found)


schemes.register(MasaCtrl.name, MasaCtrl())
