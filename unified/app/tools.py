"""The tools of the Explore page: what lies in a model's spaces, as a row of pictures.

Each asks the contract for what it needs; none knows which model it is given.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from unified.contract.abilities import Attends, Maps, Reads, Renders
from unified.contract.attention import MapRecorder
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Clash, Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError

_MOST = 16  # pictures of a row


@dataclass(frozen=True)
class Picture:
    """label: what is written below it. image: [3,H,W] in 0..1."""

    label: str
    image: Tensor


class StyleModel(Renders, Maps, Protocol):
    """Random styles, and pictures of them in one pass: its rows are made while one waits."""


def style_model(backbone: Backbone) -> StyleModel:
    if not (isinstance(backbone, Renders) and isinstance(backbone, Maps)):
        raise UserError(f"{backbone.id} has no space of styles to walk in: choose a model that has one.")
    return backbone  # type: ignore[return-value]  # both protocols were checked


def latents(backbone: Backbone, seed: int) -> Tensor:
    """z [1, width]: what `generate(seed=seed)` draws."""
    return (
        Random(seed).child("generate", "z").normal([0], (style_model(backbone).latent_width(),), dtype=backbone.dtype)
    )


@torch.no_grad()
def styles(backbone: Backbone, view: View, z: Tensor, truncation: float) -> Tensor:
    """z [N, width] -> styles [N, number, width], drawn towards the mean by `truncation` (1: not at all)."""
    model = style_model(backbone)
    mean, _ = model.style_statistics()
    w = mean + truncation * (model.map_latents(view, z) - mean)
    return w[:, None].expand(-1, model.style_shape()[0], -1)


@torch.no_grad()
def _rendered(backbone: Backbone, view: View, rows: Tensor, labels: Sequence[str]) -> list[Picture]:
    images = style_model(backbone).render(view, rows.contiguous()).float().clamp(0, 1)
    return [Picture(label, image) for label, image in zip(labels, images, strict=True)]


def random_walk(backbone: Backbone, *, seed: int, steps: int, stride: float, truncation: float) -> list[Picture]:
    """A walk through z: each step turns it by `stride` radians towards a new random direction.

    cos(stride) z + sin(stride) e keeps z normally distributed, so that every picture is as likely as a sample.
    """
    z = latents(backbone, seed)
    walk = Random(seed).child("walk")
    rows = [z]
    for step in range(1, _bounded(steps)):
        fresh = walk.normal([step], tuple(z.shape[1:]), dtype=z.dtype)
        rows.append(math.cos(stride) * rows[-1] + math.sin(stride) * fresh)
    with backbone.bound() as view:
        found = styles(backbone, view, torch.cat(rows), truncation)
        return _rendered(backbone, view, found, [f"step {i}" if i else f"seed {seed}" for i in range(len(rows))])


def between_seeds(backbone: Backbone, *, first: int, second: int, steps: int, truncation: float) -> list[Picture]:
    """Straight from one sample to another in W, which is less curved than z (Karras et al. 2019, section 4.1)."""
    shares = _shares(steps)
    with backbone.bound() as view:
        a, b = styles(
            backbone, view, torch.cat([latents(backbone, first), latents(backbone, second)]), truncation
        ).unbind()
        rows = torch.stack([torch.lerp(a, b, share) for share in shares])
        return _rendered(backbone, view, rows, [_between(s, f"seed {first}", f"seed {second}") for s in shares])


def mix_styles(backbone: Backbone, *, first: int, second: int, truncation: float) -> list[Picture]:
    """Style mixing (Karras et al. 2019, section 3.1): coarse layers of one sample, fine layers of another."""
    number, _ = style_model(backbone).style_shape()
    cuts = sorted({round(i * number / 6) for i in range(7)}, reverse=True)
    with backbone.bound() as view:
        a, b = styles(
            backbone, view, torch.cat([latents(backbone, first), latents(backbone, second)]), truncation
        ).unbind()
        rows = torch.stack([torch.cat([a[:cut], b[cut:]]) for cut in cuts])
        labels = [
            f"seed {first}" if cut == number else f"seed {second}" if cut == 0 else f"{first} up to layer {cut - 1}"
            for cut in cuts
        ]
        return _rendered(backbone, view, rows, labels)


def between_concepts(
    backbone: Backbone, first: Concept, second: Concept, *, steps: int, seed: int, prompt: str, progress: Progress
) -> list[Picture]:
    """From one inverted concept to another; `{}` in the prompt stands for it."""
    shares = _shares(steps)
    found = []
    progress.start("pictures between the two", len(shares))
    for number, share in enumerate(shares):
        concept = blend(first, second, share)
        text = prompt.replace("{}", concept.name)
        image = backbone.generate(concept, prompt=text, n=1, seed=seed, output="pt", progress=progress)[0]
        found.append(Picture(_between(share, "first", "second"), image.float()))
        progress.advance(number + 1)
    progress.finish()
    return found


def blend(first: Concept, second: Concept, share: float) -> Concept:
    """The concept at `share` (0..1) of the way, code by code; of codes for each picture the first picture's.

    Straight lines, but great circles for noise, which has to keep its length (Shoemake 1985). Raises UserError
    for concepts of different models or spaces, tokens, and codes that add to the weights: those have no points
    in between.
    """
    if first.fingerprint != second.fingerprint or [c.space for c in first.codes] != [c.space for c in second.codes]:
        raise UserError("There is no way between these two: choose two inverted by the same recipe on the same model.")
    codes = [_blend_code(a, b, share) for a, b in zip(first.codes, second.codes, strict=True)]
    return dataclasses.replace(first, codes=codes)


def _blend_code(a: Code, b: Code, share: float) -> Code:
    space = space_of(a)
    a, b = a.pick([0]), b.pick([0])
    for name, tensor in a.tensors.items():
        other = b.tensors.get(name)
        if other is None or other.shape != tensor.shape:
            raise UserError(f"The two codes of the space {space.name!r} differ in form: invert both in the same way.")
        if not tensor.is_floating_point() or space.clash is Clash.ADD:
            raise UserError(f"There is nothing between two codes of the space {space.name!r}: use another recipe.")
    mixed = great_circle if space.kind is Kind.NOISE else torch.lerp
    return a.with_tensors({name: mixed(tensor, b.tensors[name], share) for name, tensor in a.tensors.items()})


def great_circle(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical linear interpolation of each row [N, ...]; straight where the two point the same way."""
    x, y = a.flatten(1), b.flatten(1)
    cosine = functional.cosine_similarity(x, y, dim=1).clamp(-1, 1).double()
    angle = cosine.arccos().to(a.dtype)[:, None]
    sine = angle.sin()
    turned = (((1 - share) * angle).sin() * x + (share * angle).sin() * y) / sine.clamp(min=1e-6)
    return torch.where(sine > 1e-4, turned, torch.lerp(x, y, share)).view_as(a)


@torch.no_grad()
def attention_maps(
    backbone: Backbone, *, prompt: str, seed: int, concept: Concept | None, progress: Progress
) -> list[Picture]:
    """The picture of a prompt, and where it attended to each word, over all layers, heads and steps.

    The maps are those of the sampling itself (Hertz et al. 2022, section 3.1). Raises UserError without a prompt,
    or on a backbone without attention that can be read.
    """
    if not isinstance(backbone, Attends) or not isinstance(backbone, Reads):
        raise UserError(f"The attention of {backbone.id} cannot be read: choose a model that has maps for each word.")
    words = list(dict.fromkeys(prompt.split()))[:_MOST]
    if not words:
        raise UserError("There is no prompt: write a few words to see where each of them goes.")
    bound = [] if concept is None else [concept]
    progress.start("sampling with attention", 1)
    with backbone.bound(*bound) as view:
        recorder = MapRecorder(view.attending)
        view.edit_attention(recorder)
        image = view.sample(Target(prompt=prompt, n=1), rng=Random(seed).child("generate"))[0].float()
        maps = recorder.maps()[-1:]  # with guidance, the prompt's row comes last
        spoken = [view.carry(prompt)]
        found = [Picture("picture", image)]
        for word in words:
            said = backbone.token_places(view, spoken, view.carry(word)).to(maps.dtype)
            if said.any():
                heat = (maps * (said / said.sum(1, keepdim=True))[:, :, None, None]).sum(1)
                found.append(Picture(word, overlaid(image, heat[0].float())))
    progress.advance(1)
    progress.finish()
    return found


def overlaid(image: Tensor, heat: Tensor) -> Tensor:
    """image [3,H,W] in grey, and heat [h,w] in colours over it: full at its largest value, none at its smallest."""
    from matplotlib import colormaps

    wide = functional.interpolate(heat[None, None], size=image.shape[-2:], mode="bilinear")[0, 0]
    share = (wide - wide.min()) / (wide.max() - wide.min()).clamp(min=1e-12)
    colours = torch.from_numpy(colormaps["inferno"](share.numpy())[..., :3]).float().movedim(-1, 0)
    return (0.35 * image.mean(0, keepdim=True) + 0.65 * colours).clamp(0, 1)


def _bounded(steps: int) -> int:
    if not 2 <= steps <= _MOST:
        raise UserError(f"{steps} pictures were asked for; choose from 2 to {_MOST}.")
    return steps


def _shares(steps: int) -> list[float]:
    return [i / (_bounded(steps) - 1) for i in range(steps)]


def _between(share: float, first: str, second: str) -> str:
    return first if share == 0 else second if share == 1 else f"{share:.0%}"
