"""Moving a GAN's concepts along named attribute directions (survey section 3.4; Shen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from editing.directions import Directions, directions_for
from editing.styles import gan_of, moved, style_codes, with_samples
from unified.contract.backbone import Backbone, Renders
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.errors import UserError


def edit(
    backbone: Backbone, concept: Concept, edits: Mapping[str, float], *, directions: Directions | None = None
) -> Concept:
    """The concept with all its w or w+ codes moved: w + sum of strength * unit; its other codes stay.

    edits: names as `Directions.shift` takes them -> strength; 1 is one standard deviation of samples along
    the direction. directions: default: those known for the backbone. Tuned weights and noise maps stay bound.
    Raises UserError for unknown names, naming the nearest, or a concept without w.
    """
    places = style_codes(concept)
    if not places:
        raise UserError(f"The concept {concept.name} holds no style vectors to move: invert it in 'w' or 'w+' first.")
    number, _ = gan_of(backbone).style_shape()
    shift = (directions or directions_for(backbone)).total(edits, number)
    if shift is None:
        return concept
    codes = list(concept.codes)
    for place in places:
        codes[place] = moved(codes[place], shift, weight=concept.weight)
    return concept.with_codes(codes)


def style_refusal(concepts: Sequence[Concept]) -> str | None:
    """Why the style codes of these concepts cannot be moved, or None."""
    try:
        for concept in concepts:
            style_codes(concept)
    except UserError as error:
        return str(error)
    return None


class LatentEdit(Scheme):
    """Render the concept with `target.edits` applied to its style codes; without edits, as it was inverted.

    With no style code among the concepts the edits go to random samples: those that the same seed gives
    without edits.
    """

    name: ClassVar[str] = "latent-edit"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"edits"})

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return style_refusal(concepts)

    def generate(
        self,
        backbone: Backbone,
        concepts: Sequence[Concept],
        target: Target,
        *,
        rng: Random,
        progress: Progress,
    ) -> Tensor:
        bound = list(concepts)
        if target.edits:
            directions = directions_for(backbone)
            bound = [
                edit(backbone, concept, target.edits, directions=directions) if style_codes(concept) else concept
                for concept in with_samples(backbone, concepts, target, rng=rng)
            ]
        with backbone.bound(*bound) as view:
            return view.sample(Target(n=target.n, sampling=target.sampling), rng=rng)


schemes.register(LatentEdit.name, LatentEdit())
