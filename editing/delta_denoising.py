"""Delta Denoising Score (Hertz et al. 2023): the latents are optimised towards the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.pictures import as_inverted, latents_refusal, pictures_of, source_prompts
from unified.contract.abilities import Denoises, Level, Reads
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.denoising.guided import Guided, guided
from unified.denoising.sampler import settings_for


@dataclass(frozen=True)
class DeltaDenoising(Scheme):
    """Equation 3: z -= lr (eps(z_t, prompt) - eps(x_t, source)), the same eps and t in both.

    The noisy component that the score of a real picture has under any prompt cancels, so that what is left moves
    the picture only where the two texts differ. The network's Jacobian is left out, as in the paper (and in
    score distillation). The target's sampling gives steps (200) and guidance (7.5). Times are drawn from the
    training distribution's quantiles `low` to `high` (t of 50 to 950 of 1000 where it is uniform).
    """

    name: ClassVar[str] = "delta-denoising"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    lr: float = 0.1
    low: float = 0.05
    high: float = 0.95

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return latents_refusal(concepts, "delta-denoising")

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
            pair = [
                guided(backbone, view, prompts, settings.guidance, negative_prompt=negative)
                for prompts in ([target.prompt] * len(rows), source_prompts(view, target, rows))
            ]
            z = x
            progress.start(self.name, settings.steps)
            for number in range(settings.steps):
                draw = rng.child("step", number)
                uniform = self.low + (self.high - self.low) * draw.child("level").uniform([0])
                eps = draw.child("eps").normal(rows, x.shape[1:], dtype=x.dtype)
                z = z - self.lr * delta(pair[0], pair[1], z, x, eps, _level(backbone, uniform))
                progress.advance(number + 1)
            progress.finish()
            return backbone.decode(view, z).clamp(0, 1)


def delta(goal: Guided, source: Guided, z: Tensor, x: Tensor, eps: Tensor, level: Level) -> Tensor:
    """The delta denoising score: eps^ of the edited latents under the goal less that of x under its source."""
    scores = [model.split(level.a * latents + level.s * eps, level)[1] for model, latents in ((goal, z), (source, x))]
    return scores[0] - scores[1]


def _level(backbone: Denoises, uniform: Tensor) -> Level:
    """One training level for all pictures, so that a picture's result does not depend on its company."""
    time, a, s = (float(value[0]) for value in backbone.random_levels(uniform))
    return Level(time, a, s)


schemes.register(DeltaDenoising.name, DeltaDenoising())
