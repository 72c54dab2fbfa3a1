"""Diffusion Self-Guidance (Epstein et al. 2023): where things are and how large, by what attention says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Attends, Denoises, Level, Reads
from unified.contract.attention import Attending, Attention, Editor, MapRecorder, Place
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.guided import guided
from unified.denoising.sampler import sample_latents
from unified.errors import UserError

PROPERTIES = ("x", "y", "size")


@dataclass(frozen=True)
class Seen:
    """Of one word: shape [N,h,w] in 0..1, centre [N,2] (x, y in 0..1), size [N], appearance [N,width]."""

    shape: Tensor
    centre: Tensor
    size: Tensor
    appearance: Tensor


class Features(Editor):
    """Keeps the values [N, tokens, width] of the last attention over the picture that was called."""

    def __init__(self, attending: Attending) -> None:
        self.attending = attending
        self.last = torch.zeros(0)
        self.grid = (1, 1)

    def wants(self, place: Place) -> bool:
        return place.kind != "cross"

    def project(self, call: Attention) -> None:
        self.last, self.grid = call.value[:, :, call.picture].transpose(1, 2).flatten(2), call.size


@dataclass(frozen=True)
class SelfGuidance(Scheme):
    """eps^ = eps_guided + strength sigma grad g (equation 3): the prompt's picture with its things moved or resized.

    edits: {"hat:x": 0.2} moves what `hat` attends to by 0.2 of the width to the right, "hat:y" downwards,
    {"hat:size": 1.5} makes it 1.5 times as large; measured against the same noise without guidance, at each step.
    Of every other word the shape and the appearance are held, of the edited ones the appearance (section 3.3).
    g is the sum of absolute differences; shape is attention, soft-thresholded at half its range (equation 5);
    appearance is the mean over the shape of the values of the last attention over the picture.
    """

    name: ClassVar[str] = "self-guidance"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "edits"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt", "edits"})

    strength: float = 30.0
    keep: float = 0.1

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        assert isinstance(backbone, Denoises)
        changes = asked(target.edits)
        count = target.n or 1
        with torch.no_grad(), backbone.bound(*concepts) as view, view.bound() as watched:
            words = dict.fromkeys([*changes, *target.prompt.split()])
            watch = Watch(backbone, watched, target.prompt, list(words), count=count)
            plain: list[Mapping[str, Seen]] = []

            def look(x: Tensor, x0: Tensor, eps: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                plain.append(watch.see(x, level))
                return x0, eps

            sample_latents(view, target, rng=rng, steer=look)
            steps = iter(plain)

            def guide(x: Tensor, x0: Tensor, eps: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                goal = next(steps)
                if level.a == 0 or self.strength == 0:  # pure noise says nothing of x0
                    return x0, eps
                with torch.enable_grad():
                    point = x.detach().requires_grad_()
                    energy = difference(watch.see(point, level), goal, changes, keep=self.keep)
                    (slope,) = torch.autograd.grad(energy.sum(), point)
                eps = eps + self.strength * level.s * slope
                return (x - level.s * eps) / level.a, eps

            latents = sample_latents(view, target, rng=rng, steer=guide)
            return backbone.decode(view, latents).clamp(0, 1)


def asked(edits: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{"hat:x": 0.2} -> {"hat": {"x": 0.2}}. Raises UserError for other properties."""
    found: dict[str, dict[str, float]] = {}
    for key, value in edits.items():
        word, colon, what = key.rpartition(":")
        if not colon or what not in PROPERTIES:
            raise UserError(
                f"The edit {key!r} is not understood: write a word of the prompt and what to change of it, as 'hat:x'"
                f" (or {', '.join(PROPERTIES[1:])})."
            )
        found.setdefault(word, {})[what] = value
    return found


class Watch:
    """What the network sees of some words at a point of the sampling, in a view of its own, without guidance."""

    def __init__(self, backbone: Backbone, view: View, prompt: str, words: Sequence[str], *, count: int) -> None:
        assert isinstance(backbone, Attends) and isinstance(backbone, Denoises)
        said = {word: backbone.token_places(view, [view.carry(prompt)], view.carry(word))[0] for word in words}
        for word, tokens in said.items():
            if not bool(tokens.any()):
                raise UserError(f"The prompt {prompt!r} does not say {word!r}, which was to be changed.")
        self.said = said
        self.model = guided(backbone, view, [prompt] * count, 1.0)
        self.recorder, self.features = MapRecorder(view.attending), Features(view.attending)
        view.edit_attention(self.recorder, self.features)

    def see(self, x: Tensor, level: Level) -> dict[str, Seen]:
        self.recorder.clear()
        self.model.split(x, level)
        maps = self.recorder.maps()
        tokens = self.features.last.transpose(1, 2).unflatten(-1, self.features.grid)
        features = torch.nn.functional.interpolate(tokens, size=maps.shape[-2:], mode="bilinear")
        return {word: seen(maps[:, places].sum(1), features) for word, places in self.said.items()}


def seen(attention: Tensor, features: Tensor) -> Seen:
    """The properties of attention [N,h,w] (section 3.2), and of features [N,width,h,w] under its shape."""
    shape = thresholded(attention)
    height, width = attention.shape[-2:]
    mass = attention / attention.sum((1, 2), keepdim=True).clamp(min=1e-12)
    across = (torch.arange(width, dtype=attention.dtype) + 0.5) / width
    down = (torch.arange(height, dtype=attention.dtype) + 0.5) / height
    centre = torch.stack([(mass.sum(1) * across).sum(1), (mass.sum(2) * down).sum(1)], 1)
    weights = shape / shape.sum((1, 2), keepdim=True).clamp(min=1e-12)
    return Seen(shape, centre, shape.mean((1, 2)), (features * weights[:, None]).sum((2, 3)))


def thresholded(attention: Tensor, sharpness: float = 10.0) -> Tensor:
    """normalize(sigmoid(s (normalize(A) - 0.5))), each to 0..1 (equation 5)."""
    return _stretched(torch.sigmoid(sharpness * (_stretched(attention) - 0.5)))


def _stretched(value: Tensor) -> Tensor:
    low, high = value.amin((1, 2), keepdim=True), value.amax((1, 2), keepdim=True)
    return (value - low) / (high - low).clamp(min=1e-12)


def difference(
    now: Mapping[str, Seen], plain: Mapping[str, Seen], changes: Mapping[str, Mapping[str, float]], *, keep: float
) -> Tensor:
    """g [N]: how far the words' properties are from what was asked of those of the plain picture."""
    total = torch.zeros(())
    for word, own in now.items():
        before, change = plain[word], changes.get(word, {})
        total = total + keep * (own.appearance - before.appearance).abs().mean(1)
        if word not in changes:
            total = total + keep * (own.shape - before.shape).abs().mean((1, 2))
        for axis, name in enumerate(("x", "y")):
            if name in change:
                wanted = (before.centre[:, axis] + change[name]).clamp(0, 1)
                total = total + (own.centre[:, axis] - wanted).abs()
        if "size" in change:
            total = total + (own.size - (before.size * change["size"]).clamp(max=1)).abs()
    return total


schemes.register(SelfGuidance.name, SelfGuidance())
