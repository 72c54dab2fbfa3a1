"""RB-Modulation (Rout et al. 2025): sampling as control, towards the style of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.style_pictures import apart, style_refusal
from unified.contract.abilities import Denoises, Level, Reads
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.sampler import sample_latents, settings_for
from unified.metrics.lpips import embedded_lpips

_SIDE = 64  # pictures are looked at in this size at least


@dataclass(frozen=True)
class RBModulation(Scheme):
    """Before each step x0^ is moved to lower 1 - cos of its style to the reference's, and the step goes on from there.

    Algorithm 1: `iterations` of Adam on x0^, at the rate lr (1 - i / steps), through the decoder and the style
    descriptor but not through the network. The descriptor is the correlation of AlexNet features (Gatys et al. 2016)
    in five layers, where the paper has CSD. Attention feature aggregation (section 4.2) is left out: it needs
    tokens of an image encoder; bind a concept of such an adapter with it. The concept's weight scales the rate.
    """

    name: ClassVar[str] = "rb-modulation"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    iterations: int = 3
    lr: float = 0.1

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return style_refusal(concepts, self.name)

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        assert isinstance(backbone, Denoises)
        references, weight, others = apart(concepts)
        with torch.no_grad(), backbone.bound(*others) as view:
            steps = settings_for(view, target, as_inverted=False).steps
            wanted = [part.mean(0, keepdim=True) for part in style(backbone.decode(view, references))]
            calls = 0

            def cost(x0: Tensor) -> Tensor:
                return dissimilarity(style(backbone.decode(view, x0)), wanted).sum()

            def steer(x: Tensor, x0: Tensor, eps: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                nonlocal calls
                rate = weight * self.lr * (1 - min(calls, steps) / steps)
                calls += 1
                moved = controlled(x0, cost, iterations=self.iterations, lr=rate)
                return moved, (x - level.a * moved) / level.s if moved is not x0 else eps

            latents = sample_latents(view, target, rng=rng, steer=steer)
            return backbone.decode(view, latents).clamp(0, 1)


def controlled(x0: Tensor, cost: Callable[[Tensor], Tensor], *, iterations: int, lr: float) -> Tensor:
    """x0 after some iterations of Adam on the cost; itself if there are none."""
    if iterations == 0 or lr == 0:
        return x0
    with torch.enable_grad():
        moved = x0.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([moved], lr=lr)
        for _ in range(iterations):
            optimizer.zero_grad()
            cost(moved).backward()
            optimizer.step()
    return moved.detach()


def style(images: Tensor) -> list[Tensor]:
    """Correlations of channels, unit vectors [N, C * C], one for each of five layers; images [N,3,H,W] in 0..1."""
    side = max(_SIDE, images.shape[-1])
    wide = functional.interpolate(images.float(), size=(side, side), mode="bilinear")
    found = []
    for features in embedded_lpips().activations(wide):
        flat = features.flatten(2)
        found.append(functional.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1))
    return found


def dissimilarity(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """1 - cos, [N], mean over the layers."""
    return torch.stack([1 - functional.cosine_similarity(a, b, dim=1) for a, b in zip(one, other, strict=True)]).mean(0)


schemes.register(RBModulation.name, RBModulation())
