"""Moving a concept, in whatever style space it was inverted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from editing.paths import Shift
from editing.styles import gan_of, joined, moved, split, style_codes, style_places, styled_of, unweighted, with_styles
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.space import spaces
from unified.contract.view import View
from unified.errors import UserError


def apply_shift(backbone: Backbone, concept: Concept, shift: Shift) -> Concept:
    """The concept with its style codes moved; all other codes (features, weights, noise maps) stay bound.

    A w or w+ code is moved where it is. Codes of other spaces are moved by what they give: style vectors become
    a w+ code; as soon as style channels are moved, or were inverted, the code is one of StyleSpace. A step in w
    moves channels by the step times the layers' affine maps, which is what it does in w itself.
    Raises UserError if the concept holds no style code.
    """
    places = style_places(concept)
    if not places:
        raise UserError(
            f"The concept {concept.name} holds no style vectors to move: invert it in 'w' or 'w+' first, or in"
            " another style space."
        )
    if shift.channels is None and shift.styles is not None and len(style_codes(concept)) == len(places):
        codes = list(concept.codes)
        for place in places:
            codes[place] = moved(codes[place], shift.styles, weight=concept.weight)
        return concept.with_codes(codes)
    with torch.no_grad(), backbone.bound(concept) as view:
        if "channels" in view.slots or shift.channels is not None:
            return _in_channels(view, concept, shift)
        styles = view.slots["styles"].read()
        assert shift.styles is not None
        mean, _ = gan_of(backbone).style_statistics()
        return with_styles(concept, styles + shift.styles.to(styles.dtype), mean)


def _in_channels(view: View, concept: Concept, shift: Shift) -> Concept:
    """The concept with its style codes replaced by one of style channels, moved by `shift`."""
    gan = styled_of(view.backbone)
    sizes = gan.style_channels()
    if "channels" in view.slots:
        channels = joined(view.slots["channels"].read(), sizes)
        if shift.styles is not None:
            steps = shift.styles.to(channels.dtype)
            steps = steps if steps.ndim == 3 else steps.unsqueeze(0)
            still = joined(gan.channels_of(view, torch.zeros_like(steps[:1])), sizes)
            channels = channels + (joined(gan.channels_of(view, steps), sizes) - still)
    else:
        styles = view.slots["styles"].read()
        styles = styles if shift.styles is None else styles + shift.styles.to(styles.dtype)
        channels = joined(gan.channels_of(view, styles), sizes)
    if shift.channels is not None:
        channels = channels + shift.channels.to(channels.dtype)
    return with_channels(view, concept, split(channels, sizes))


def with_channels(view: View, concept: Concept, channels: Mapping[str, Tensor]) -> Concept:
    """The concept with its style codes replaced by style channels {layer: [n, channels]}."""
    number, width = gan_of(view.backbone).style_shape()
    mean, _ = gan_of(view.backbone).style_statistics()
    middle = styled_of(view.backbone).channels_of(view, mean.expand(1, number, width))
    code = spaces.get("s")().code(
        {layer: unweighted(value, middle[layer], concept.weight) for layer, value in channels.items()}
    )
    places = style_places(concept)
    others = [c for place, c in enumerate(concept.codes) if place not in places]
    first = sum(1 for place in range(places[0]) if place not in places) if places else 0
    return concept.with_codes([*others[:first], code, *others[first:]])
