"""LEDITS++ (Brack et al. 2024): several masked edits on edit-friendly noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from unified.contract.abilities import Attends, Denoises, Level, Reads
from unified.contract.attention import MapRecorder
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.guided import guided
from unified.denoising.sampler import sample_latents


@dataclass(frozen=True)
class LEdits(Scheme):
    """eps^ = eps_inverted + sum_e s_e M1_e M2_e (eps_e - eps_0) (equations 6 to 10), with the inverted noises.

    edits: text of each edit and its scale s_e, about 5; a negative scale takes away. M1 keeps where the edit's
    tokens are attended to most, M2 where its guidance is largest; both keep the share above the quantile
    `threshold`. eps_inverted is the network as it was at the inversion, so that no edits give the picture back
    exactly, whatever the solver that the noises were inverted with.
    Left out: warm-up and cool-down steps of single edits, the paper's results use neither.
    """

    name: ClassVar[str] = "ledits++"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads, Attends)
    reads: ClassVar[frozenset[str]] = frozenset({"edits"})

    threshold: float = 0.9

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        if any(code.space == "noise-maps" for concept in concepts for code in concept.codes):
            return None
        return "it needs the noise of every step: invert with the recipe 'ledits++' or 'ddpm-inversion'"

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        assert isinstance(backbone, Denoises)
        count = target.n or next((c.pictures for c in concepts if c.pictures), 1)
        with torch.no_grad(), backbone.bound(*concepts) as view, view.bound() as watched:
            edits = _Edits(backbone, view, watched, target.edits, count=count, threshold=self.threshold)
            plain = Target(n=count, sampling=target.sampling)
            latents = sample_latents(view, plain, rng=rng, steer=edits if target.edits else None)
            return backbone.decode(view, latents).clamp(0, 1)


class _Edits:
    """The sum of the masked edits, as a change of what the network says.

    The edits are asked for in `watched`, a view of its own whose attention is recorded: recording changes how
    attention rounds, and `view` must repeat the inversion to the last bit.
    """

    def __init__(
        self,
        backbone: Denoises,
        view: View,
        watched: View,
        edits: Mapping[str, float],
        *,
        count: int,
        threshold: float,
    ) -> None:
        self.threshold = threshold
        self.scales = list(edits.values())
        self.empty = guided(backbone, view, [""] * count, 1.0)
        self.edits = [guided(backbone, watched, [text] * count, 1.0) for text in edits]
        self.recorder = MapRecorder(watched.attending)
        watched.edit_attention(self.recorder)
        assert isinstance(backbone, Attends)
        self.said = [
            backbone.token_places(watched, [watched.carry(text)] * count, watched.carry(text)) for text in edits
        ]

    def __call__(self, x: Tensor, x0: Tensor, eps: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        empty_x0, empty_eps = self.empty.split(x, level)
        for model, scale, said in zip(self.edits, self.scales, self.said, strict=True):
            self.recorder.clear()
            edit_x0, edit_eps = model.split(x, level)
            # At one x the differences in x0 and in eps are multiples of each other: one mask serves both.
            mask = attended(self.recorder.maps(), said, x.shape[-2:], self.threshold)
            mask = mask * largest(edit_x0 - empty_x0, self.threshold)
            x0 = x0 + scale * mask * (edit_x0 - empty_x0)
            eps = eps + scale * mask * (edit_eps - empty_eps)
        return x0, eps


def attended(maps: Tensor, said: Tensor, size: tuple[int, ...], threshold: float) -> Tensor:
    """M1 (equation 8): where the tokens `said` [N, tokens] are attended to most, [N, 1, *size] of 0 and 1.

    maps [N, tokens, height, width], summed over the tokens, smoothed (3 x 3, sigma 0.5) and cut at the quantile.
    """
    total = (maps * said.to(maps.dtype)[:, :, None, None]).sum(1, keepdim=True)
    line = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], dtype=maps.dtype) / 0.5) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    smooth = functional.conv2d(functional.pad(total, (1, 1, 1, 1), mode="replicate"), kernel[None, None])
    return functional.interpolate(_above(smooth, threshold), size=size, mode="nearest")


def largest(difference: Tensor, threshold: float) -> Tensor:
    """M2 (equation 9): where the guidance [N, channels, h, w] is largest, [N, 1, h, w] of 0 and 1."""
    return _above(difference.abs().sum(1, keepdim=True), threshold)


def _above(values: Tensor, threshold: float) -> Tensor:
    cut = values.flatten(1).quantile(threshold, dim=1).view(-1, 1, 1, 1)
    return (values >= cut).to(values.dtype)


schemes.register(LEdits.name, LEdits())
