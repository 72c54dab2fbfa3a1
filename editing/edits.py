"""Applying edits to concepts of any style space."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from editing.apply import apply_shift
from editing.direction_file import directions_for
from editing.directions import Directions
from editing.paths import Here, Path
from editing.styles import gan_of, style_places
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.edits import Asked


def edit(
    backbone: Backbone, concept: Concept, edits: Mapping[str, float], *, directions: Directions | None = None
) -> Concept:
    """The concept with all its style codes moved by the sum of strength * unit; its other codes stay.

    edits: names as `Directions.shift` takes them -> strength; 1 is one standard deviation of samples along
    the direction; paths, which depend on the code, are followed from the code as it is bound, with all that is bound
    with it. directions: default: those known for the backbone. Tuned weights, features and noise maps stay
    bound; see `apply_shift` for what becomes of each style space. Raises UserError for unknown names, naming
    the nearest, or a concept without a style code.
    """
    number, _ = gan_of(backbone).style_shape()
    known = directions or directions_for(backbone)
    if not style_places(concept) or not any(isinstance(known.get(Asked.read(n).name)[0], Path) for n in edits):
        shift = known.total(edits, number)
    else:
        with torch.no_grad(), backbone.bound(concept) as view:
            shift = known.total(edits, number, Here(view))
    return concept if shift is None else apply_shift(backbone, concept, shift)
