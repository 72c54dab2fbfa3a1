"""A prompt for a GAN's concept, by the best there is for its generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from editing.find.text_steps import steps_file
from editing.styleclip import TextOptimisation
from editing.text_steps import TextSteps
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target


@dataclass(frozen=True)
class TextEdit(EditScheme):
    """Steps of the styles where they were measured for the generator ('text-steps'), else StyleCLIP's optimisation.

    The steps take no time and keep the picture; the optimisation needs nothing prepared.
    """

    name: ClassVar[str] = "text-edit"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    steps: TextSteps = field(default_factory=TextSteps)
    optimisation: TextOptimisation = field(default_factory=TextOptimisation)

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        chosen = self.optimisation if steps_file(backbone.fingerprint) is None else self.steps
        return chosen.edited(backbone, concepts, target, rng=rng, progress=progress)


schemes.register(TextEdit.name, TextEdit())
