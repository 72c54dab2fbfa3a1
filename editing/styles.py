"""Reading and moving the style codes of a GAN's concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unified.contract.backbone import Backbone, Renders
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.random import Random
from unified.contract.space import space_of, spaces
from unified.contract.target import Target
from unified.errors import UserError
from unified.sampling import override

SAMPLED = "<sampled styles>"  # name of the concept that stands for random samples


@runtime_checkable
class MapsLatents(Protocol):
    """A GAN whose random samples start from latents z; `config.z_dim` is their width."""

    config: Any

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """z [N, z_dim] -> styles [N, number, width]."""
        ...


def gan_of(backbone: Backbone) -> Renders:
    """The backbone as one that renders from styles. Raises UserError if it does not."""
    if not isinstance(backbone, Renders):
        raise UserError(f"{backbone.id} has no style vectors to move: latent editing needs a GAN.")
    return backbone


def sample_styles(backbone: Backbone, rows: Sequence[int], *, truncation: float, rng: Random) -> Tensor:
    """Styles [len(rows), number, width] of random samples; row i is stream rows[i] of `rng`'s child "z".

    The streams are those of the backbone's own sampling, so the same seed gives the same faces here.
    """
    if not isinstance(backbone, MapsLatents):
        raise UserError(f"{backbone.id} cannot draw random styles: give a concept to edit.")
    z = rng.child("z").normal(rows, (int(backbone.config.z_dim),), dtype=backbone.dtype)
    with torch.no_grad():
        return backbone.mapping(z, truncation_psi=truncation)


def style_codes(concept: Concept) -> list[int]:
    """Places of the concept's style codes that hold w vectors.

    Raises UserError for a style code of another sort, which named directions do not fit.
    """
    found = [i for i, code in enumerate(concept.codes) if space_of(code).kind is Kind.STYLE]
    for i in found:
        if "w" not in concept.codes[i].tensors:
            raise UserError(
                f"The concept {concept.name} was inverted in the space {concept.codes[i].space!r}, which"
                " holds no w vectors; edits move those. Invert it with space='w' or 'w+'."
            )
    return found


def style_code(styles: Tensor) -> Code:
    """A W+ code of styles [pictures, number, width]."""
    return spaces.get("w+")().code({"w": styles})


def moved(code: Code, shift: Tensor, *, weight: float = 1.0) -> Code:
    """The w or w+ code with shift [number, width] added to what is bound.

    weight: that the concept is bound with; binding draws w towards the mean by it, which the shift is spared.
    A w code stays one if the shift is the same for all layers, else it becomes a w+ code.
    """
    _check_weight(weight)
    w = code.tensors["w"]
    shift = (shift / weight).to(w.dtype)
    if w.ndim == 2 and bool((shift == shift[0]).all()):
        return code.with_tensors({"w": w + shift[0]})
    if w.ndim == 2:
        return style_code(w.unsqueeze(1) + shift)
    return code.with_tensors({"w": w + shift})


def with_styles(concept: Concept, styles: Tensor, mean: Tensor) -> Concept:
    """The concept with its style codes replaced by styles [n, number, width]; all other codes stay.

    mean: mean w [width], which a weight other than 1 draws towards.
    """
    places = style_codes(concept)
    _check_weight(concept.weight)
    if concept.weight != 1.0:
        styles = mean + (styles - mean) / concept.weight
    codes = list(concept.codes)
    for place in places:
        codes[place] = style_code(styles)
    return concept.with_codes(codes)


def _check_weight(weight: float) -> None:
    if weight == 0.0:
        raise UserError("A concept bound with weight 0 has no effect, so there is nothing to edit: raise the weight.")


def sampled_concept(backbone: Backbone, target: Target, *, rng: Random) -> Concept:
    """A concept that stands for the target's random samples, the styles that the backbone would draw."""
    settings = override(backbone.sampling, target.sampling)
    truncation = float(getattr(settings, "truncation", 1.0))
    styles = sample_styles(backbone, range(target.n or 1), truncation=truncation, rng=rng)
    return Concept(codes=[style_code(styles)], name=SAMPLED)


def with_samples(backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random) -> list[Concept]:
    """The concepts, and one for the target's random samples if none of them brings styles."""
    if any(style_codes(concept) for concept in concepts):
        return list(concepts)
    return [*concepts, sampled_concept(backbone, target, rng=rng)]
