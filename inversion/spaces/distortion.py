"""What a picture of a style code misses, brought back through features (HFGI, Wang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unified.contract.abilities import Featured, Renders, Styled
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.picture_encoders import PictureEncoder, check_signature, encoder_of, signed


class Consultant(PictureEncoder, Protocol):
    """What the space asks of the networks that were trained for the backbone."""

    def missing(self, images: Tensor, drawn: Tensor) -> Tensor:
        """What pictures [N,3,H,W] in 0..1 have that others, drawn in their place, do not: [N,3,R,R] in -2..2."""
        ...

    def consult(self, missing: Tensor, drawn: Tensor) -> Mapping[str, Tensor]:
        """The change of the generator's features that brings it into pictures as drawn now, by '<place>/<part>'."""
        ...


@dataclass(frozen=True)
class Distortion(Space):
    """D = x - G(w), `missing` [pictures, 3, R, R]; the features are changed so that the pictures have it.

    Where it belongs is asked whenever the view draws, of the style code that is bound then: after an edit, D is moved
    to where the edited picture has it (section 3.3). Needs a style code in the same view.
    encoder, weights: the networks that do it, by name and file, as for learning-based inversion.
    """

    name: ClassVar[str] = "distortion"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Renders, Featured, Styled)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})

    encoder: str = "hfgi"
    weights: str = ""

    def consultant(self, view: View) -> Consultant:
        """Raises UserError if the backbone has none."""
        found: Consultant = encoder_of(view.backbone, self.encoder, self.weights)
        return found

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        consultant = self.consultant(view)
        with torch.no_grad():
            if "styles" in view.slots or "channels" in view.slots:
                drawn = _plain(view, len(reference))
            else:
                mean = spaces.get("w")().initial(view, reference, rng=rng)
                with view.bound(Concept([mean], name="<mean>")) as bound:
                    drawn = _plain(bound, len(reference))
        return self.code({"missing": consultant.missing(reference.images, drawn)}, **signed(consultant))

    def bind(self, view: View, code: Code, name: str) -> None:
        consultant = self.consultant(view)
        check_signature(code, consultant, name)
        weight = view.binding.weight

        def read() -> Mapping[str, Tensor]:
            missing = code.tensors["missing"]
            changes = consultant.consult(missing, _plain(view, len(missing)))
            return {key: value * weight for key, value in changes.items()}

        view.slot("features", code, read)


def _plain(view: View, count: int) -> Tensor:
    """The pictures [count,3,H,W] of the view's style code, without any change of features."""
    backbone, rows = view.backbone, range(count)
    if "channels" in view.slots:
        assert isinstance(backbone, Styled)
        return backbone.render_channels(view, view.slots["channels"].rows(rows))
    assert isinstance(backbone, Renders)
    return backbone.render(view, view.slots["styles"].rows(rows))


spaces.register("distortion", Distortion)
