"""Prompt-to-Prompt (Hertz et al. 2022): the target keeps the source's attention, and so its composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.attention.align import alignment, swapped
from editing.attention.pairs import Pairs, check_source, decoded
from unified.contract.abilities import Attends, Denoises, Level, ReadsByLayer, Speaks
from unified.contract.attention import Attending, Attention, Editor, MapRecorder
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.sampler import inverted_prompts, pictures_in, sample_pair
from unified.errors import UserError


class CarriedAttention(Editor):
    """Cross-attention of the target is the source's through `mapper`, weighted; self-attention is the source's.

    cross, own: for which share of the sampling, from pure noise on. most: self-attention over more picture
    tokens than this stays the target's own. weights: a factor for each target token (section 3.3). Only rows
    under the prompt change; those under the negative prompt stay.
    """

    def __init__(
        self,
        pairs: Pairs,
        mapper: Tensor,
        aligned: Tensor,
        weights: Tensor,
        *,
        cross: float = 0.4,
        own: float = 0.6,
        most: int = 32**2,
    ) -> None:
        self.pairs, self.mapper, self.aligned, self.weights = pairs, mapper, aligned, weights
        self.cross, self.own, self.most = cross, own, most

    def probabilities(self, call: Attention, probabilities: Tensor) -> Tensor:
        done = 1 - float(call.time[0])
        if done >= (self.own if call.place.kind == "self" else self.cross):
            return probabilities
        rows = len(probabilities)
        source = probabilities[self.pairs.sources(rows)[-1]]
        place = self.pairs.targets(rows)[-1]
        if call.place.kind == "cross":
            mapped = source @ self.mapper.to(source.dtype)
            aligned = self.aligned.to(source.dtype)
            changed = (aligned * mapped + (1 - aligned) * probabilities[place]) * self.weights.to(source.dtype)
        elif probabilities.shape[-2] <= self.most:
            changed = source
        else:
            return probabilities
        return torch.cat([probabilities[: place.start], changed, probabilities[place.stop :]])


class LocalBlend(MapRecorder):
    """Outside of where the changed words are looked at, the target's latents are the source's (local editing).

    words: bool [tokens] of the source and of the target. The maps are means over the steps so far; a pixel counts
    from `threshold` of the largest value on, in either of the two; blending begins after the share `start`.
    """

    def __init__(
        self,
        attending: Attending,
        pairs: Pairs,
        words: tuple[Tensor, Tensor],
        *,
        threshold: float = 0.3,
        start: float = 0.2,
    ) -> None:
        super().__init__(attending)
        self.pairs, self.words, self.threshold, self.start = pairs, words, threshold, start

    def mask(self, size: Sequence[int]) -> Tensor:
        """[n, 1, *size] of 0 and 1: where the target may differ."""
        maps = self.maps()
        rows = len(maps)
        parts = (self.pairs.sources(rows)[-1], self.pairs.targets(rows)[-1])
        found = torch.zeros(self.pairs.count, 1, *size, dtype=torch.bool)
        for part, words in zip(parts, self.words, strict=True):
            own = (maps[part] * words.to(maps.dtype)[:, None, None]).sum(1, keepdim=True)
            own = functional.max_pool2d(own, 3, 1, 1)
            own = functional.interpolate(own, size=tuple(size))
            found |= own > self.threshold * own.amax((2, 3), keepdim=True)
        return found.to(maps.dtype)

    def __call__(self, x: Tensor, x0: Tensor, eps: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Blends (x0, eps) of the rows [source, target]: with them the next latents, which are linear in both."""
        done = 1 - float(self.attending.time[0])
        if done < self.start:
            return x0, eps
        mask = self.mask(x.shape[-2:])

        def blended(value: Tensor) -> Tensor:
            source, target = value.chunk(2)
            return torch.cat([source, source + mask * (target - source)])

        return blended(x0), blended(eps)


@dataclass(frozen=True)
class PromptToPrompt(Scheme):
    """The target's prompt with the composition of its source: replaced, refined and reweighted words.

    The source is an inverted picture, or what `target.source` makes from the same noise. Which words were
    swapped and which added follows from the two texts. edits: {"word": factor} for attention to words of the
    prompt. local: also blend the latents outside of the words that differ. cross, own: for which share of the
    sampling the source's cross-attention and self-attention hold, and with the first the factors; threshold: of the
    local mask. See `CarriedAttention` and `LocalBlend`.
    """

    name: ClassVar[str] = "prompt-to-prompt"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, ReadsByLayer, Speaks)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source", "edits"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    local: bool = False
    cross: float = 0.4
    own: float = 0.6
    threshold: float = 0.3

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        check_source(target, concepts)
        with backbone.bound(*concepts) as view, torch.no_grad():
            pairs = Pairs(target.n or pictures_in(view))
            source = target.source or inverted_prompts(view, [0])[0]
            before, after = (_ids(view, view.carry(text)) for text in (source, target.prompt))
            mapper, aligned = alignment(before, after)
            weights = _weights(view, view.carry(target.prompt), target.edits, len(after))
            view.edit_attention(CarriedAttention(pairs, mapper, aligned, weights, cross=self.cross, own=self.own))
            blend = None
            if self.local:
                words = swapped(before, after)
                marked = (_marked(words[0], before), _marked(words[1], after))
                blend = LocalBlend(view.attending, pairs, marked, threshold=self.threshold)
                view.edit_attention(blend)
            _, found = sample_pair(view, target, rng=rng, steer=blend)
            return decoded(backbone, view, found)


class LocalPromptToPrompt(PromptToPrompt):
    """Prompt-to-Prompt that changes the picture only where the differing words are."""

    name: ClassVar[str] = "prompt-to-prompt-local"


def _ids(view: View, prompt: str) -> list[int]:
    backbone = view.backbone
    assert isinstance(backbone, Speaks)
    component = next(iter(backbone.text_outputs()))
    ids: list[int] = backbone.say(view, component, [prompt])[1][0].tolist()
    return ids


def _marked(tokens: Sequence[int], ids: Sequence[int]) -> Tensor:
    """bool [tokens]. The padding behind the texts shifts with their lengths and is no word."""
    marked = torch.zeros(len(ids), dtype=torch.bool)
    end = ids.index(ids[-1]) if ids[-1] in ids else len(ids)
    marked[[token for token in tokens if token < end]] = True
    return marked


def _weights(view: View, prompt: str, edits: Mapping[str, float], tokens: int) -> Tensor:
    backbone = view.backbone
    assert isinstance(backbone, Attends)
    weights = torch.ones(tokens)
    for word, factor in edits.items():
        said = backbone.token_places(view, [prompt], word)[0]
        if not bool(said.any()):
            raise UserError(f"The prompt {prompt!r} does not say {word!r}, whose attention was to be weighted.")
        weights[said] = factor
    return weights


schemes.register(PromptToPrompt.name, PromptToPrompt())
schemes.register(LocalPromptToPrompt.name, LocalPromptToPrompt(local=True))
