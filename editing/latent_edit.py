"""Moving a GAN's concepts along named attribute directions (survey section 3.4; Shen et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from editing.direction_file import directions_for
from editing.edits import edit
from editing.styles import style_places, with_samples
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target


class LatentEdit(EditScheme):
    """Render the concept with `target.edits` applied to its style codes; without edits, as it was inverted.

    With no style code among the concepts the edits go to random samples: those that the same seed gives
    without edits.
    """

    name: ClassVar[str] = "latent-edit"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"edits"})

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        if not target.edits:
            return list(concepts)
        directions = directions_for(backbone)
        return [
            edit(backbone, concept, target.edits, directions=directions) if style_places(concept) else concept
            for concept in with_samples(backbone, concepts, target, rng=rng)
        ]


schemes.register(LatentEdit.name, LatentEdit())
