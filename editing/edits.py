"""Applying edits to concepts of any style space."""

from __future__ import annotations

from collections.abc import Mapping

from editing.apply import apply_shift
from editing.direction_file import directions_for
from editing.directions import Directions
from editing.styles import gan_of
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept


def edit(
    backbone: Backbone, concept: Concept, edits: Mapping[str, float], *, directions: Directions | None = None
) -> Concept:
    """The concept with all its style codes moved by the sum of strength * unit; its other codes stay.

    edits: names as `Directions.shift` takes them -> strength; 1 is one standard deviation of samples along
    the direction. directions: default: those known for the backbone. Tuned weights, features and noise maps stay
    bound; see `apply_shift` for what becomes of each style space. Raises UserError for unknown names, naming
    the nearest, or a concept without a style code.
    """
    number, _ = gan_of(backbone).style_shape()
    shift = (directions or directions_for(backbone)).total(edits, number)
    return concept if shift is None else apply_shift(backbone, concept, shift)
