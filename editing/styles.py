"""Reading and moving the style codes of a GAN's concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unified.contract.abilities import Renders, Styled
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.random import Random
from unified.contract.space import space_of, spaces
from unified.contract.target import Target
from unified.contract.view import Slot, View
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


def styled_of(backbone: Backbone) -> Styled:
    """The backbone as one with style channels. Raises UserError if it has none."""
    if not isinstance(backbone, Styled):
        raise UserError(f"{backbone.id} has no style channels: editing in StyleSpace needs a style-based GAN.")
    return backbone


def channel_sizes(backbone: Backbone) -> Mapping[str, int]:
    """Layer -> number of its style channels, in the order of synthesis; empty for a backbone without."""
    return backbone.style_channels() if isinstance(backbone, Styled) else {}


def joined(channels: Mapping[str, Tensor], layers: Iterable[str]) -> Tensor:
    """{layer: [N, channels]} -> [N, sum of channels], side by side in the order of `layers`.

    That of `channels` itself means nothing: files sort their tensors by name.
    """
    return torch.cat([channels[layer] for layer in layers], dim=1)


def split(channels: Tensor, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The inverse of `joined` in the order of `sizes`, {layer: channels}."""
    return dict(zip(sizes, channels.split(list(sizes.values()), dim=1), strict=True))


def sample_styles(backbone: Backbone, rows: Sequence[int], *, truncation: float, rng: Random) -> Tensor:
    """Styles [len(rows), number, width] of random samples; row i is stream rows[i] of `rng`'s child "z".

    The streams are those of the backbone's own sampling, so the same seed gives the same faces here.
    """
    if not isinstance(backbone, MapsLatents):
        raise UserError(f"{backbone.id} cannot draw random styles: give a concept to edit.")
    z = rng.child("z").normal(rows, (int(backbone.config.z_dim),), dtype=backbone.dtype)
    with torch.no_grad():
        return backbone.mapping(z, truncation_psi=truncation)


def style_places(concept: Concept) -> list[int]:
    """Places of the concept's style codes, of whatever space."""
    return [place for place, code in enumerate(concept.codes) if space_of(code).kind is Kind.STYLE]


def style_codes(concept: Concept) -> list[int]:
    """Places of the concept's style codes that hold w vectors."""
    return [place for place in style_places(concept) if "w" in concept.codes[place].tensors]


def own_styles(view: View) -> Slot:
    """The style vectors that the view's pictures come from. Raises UserError for concepts of style channels."""
    if "styles" not in view.slots or "channels" in view.slots:
        raise UserError(
            "The concept holds style channels (StyleSpace), and this edit moves style vectors: invert it in 'w' or"
            " 'w+', or use edits that move style channels."
        )
    return view.slots["styles"]


def style_code(styles: Tensor) -> Code:
    """A W+ code of styles [pictures, number, width]."""
    return spaces.get("w+")().code({"w": styles})


def moved(code: Code, shift: Tensor, *, weight: float = 1.0) -> Code:
    """The w or w+ code with shift [number, width], or one for each picture in front, added to what is bound.

    weight: that the concept is bound with; binding draws w towards the mean by it, which the shift is spared.
    A w code stays one if the shift is the same for all layers, else it becomes a w+ code.
    """
    _check_weight(weight)
    w = code.tensors["w"]
    shift = (shift / weight).to(w.dtype)
    first = shift[..., :1, :]
    if w.ndim == 2 and bool((shift == first).all()):
        return code.with_tensors({"w": w + first.squeeze(-2)})
    if w.ndim == 2:
        return style_code(w.unsqueeze(1) + shift)
    return code.with_tensors({"w": w + shift})


def unweighted(value: Tensor, mean: Tensor, weight: float) -> Tensor:
    """What a concept of that weight must hold for `value` to be bound: binding draws towards `mean` by it."""
    _check_weight(weight)
    return value if weight == 1.0 else mean + (value - mean) / weight


def with_styles(concept: Concept, styles: Tensor, mean: Tensor) -> Concept:
    """The concept with its style codes, if it has any, replaced by styles [n, number, width]; all other codes stay.

    mean: mean w [width], which a weight other than 1 draws towards.
    """
    places = style_places(concept)
    code = style_code(unweighted(styles, mean, concept.weight))
    kept = [c for place, c in enumerate(concept.codes) if place not in places[1:]]
    if places:
        kept[places[0]] = code
    return concept.with_codes(kept)


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
    if any(style_places(concept) for concept in concepts):
        return list(concepts)
    return [*concepts, sampled_concept(backbone, target, rng=rng)]
