"""Prompt composition: the concept's name in a sentence (survey section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Reads
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target


class PromptComposition(Scheme):
    """Bind the concepts and sample with the prompt."""

    name: ClassVar[str] = "prompt"
    needs: ClassVar[tuple[type, ...]] = (Reads,)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        with backbone.bound(*concepts) as view:
            return view.sample(target, rng=rng)


schemes.register(PromptComposition.name, PromptComposition())
