"""FlowEdit (Kulikov et al. 2024): editing along the difference of two flows, without inversion."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.pictures import as_inverted, latents_refusal, pictures_of, source_prompts
from unified.contract.abilities import Denoises, Flows, Reads
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.guided import guided
from unified.denoising.sampler import settings_for
from unified.denoising.steps import velocity


@dataclass(frozen=True)
class FlowEdit(Scheme):
    """Algorithm 1: dz = (v_target(z + z_src - x) - v_source(z_src)) ds, z_src = (1 - s) x + s eps with fresh eps.

    The target's sampling gives steps, guidance and skip (1 - n_max/T in the paper); source_guidance is that of
    the source side, average the number of noises over which dz is averaged (n_avg). Defaults are the paper's for
    Stable Diffusion 3 (n_max 33 of 50 steps, guidance 3.5 and 13.5). The variant that ends with plain sampling
    (n_min > 0) is left out: the paper's results use n_min 0.
    """

    name: ClassVar[str] = "flow-edit"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Flows, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    source_guidance: float = 3.5
    average: int = 1

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return latents_refusal(concepts, "flow-edit")

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        assert isinstance(backbone, Denoises)
        with torch.no_grad(), backbone.bound(*concepts) as view:
            if as_inverted(target):
                return view.sample(target, rng=rng)
            settings = settings_for(view, target, as_inverted=False)
            x, rows = pictures_of(view, target)
            negative = target.negative_prompt
            source = guided(
                backbone, view, source_prompts(view, target, rows), self.source_guidance, negative_prompt=negative
            )
            goal = guided(backbone, view, [target.prompt] * len(rows), settings.guidance, negative_prompt=negative)
            z = x
            progress.start(self.name, settings.steps)
            for number, (at, to) in enumerate(itertools.pairwise(backbone.levels(settings.steps))):
                if number < settings.first:
                    continue
                change = torch.zeros_like(x)
                for draw in range(self.average):
                    eps = rng.child("noise", number, draw).normal(rows, x.shape[1:], dtype=x.dtype)
                    noised = at.a * x + at.s * eps
                    ahead = velocity(*goal.split(z + noised - x, at))
                    change += (ahead - velocity(*source.split(noised, at))) / self.average
                z = z + (to.s - at.s) * change
                progress.advance(number + 1)
            progress.finish()
            return backbone.decode(view, z).clamp(0, 1)


schemes.register(FlowEdit.name, FlowEdit())
