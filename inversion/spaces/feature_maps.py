"""Feature space F: the generator's feature maps at chosen layers (survey section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unified.contract.abilities import Featured, Renders
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError

_BASE_SIZE = 16  # pixels of the features of Kang et al. 2021, for pictures of any size


def _featured(view: View) -> Featured:
    backbone = view.backbone
    assert isinstance(backbone, Featured)
    return backbone


def first_place(shapes: Mapping[str, tuple[int, int, int]], size: int) -> str:
    """The first place whose features have at least `size` pixels a side, else the last one."""
    return next((name for name, (_, height, _) in shapes.items() if height >= size), list(shapes)[-1])


@dataclass(frozen=True)
class FeatureMaps(Space):
    """The feature maps f at some places, one set for each picture; styles then rule the layers that follow.

    places: names as `feature_shapes` gives them; none: the first place of 16 pixels.
    way: "replace": f <- F, and all that coarser layers draw is left out (Kang et al. 2021, BDInvert, section
        3.1); "set": the same with the coarser layers' picture kept; "residual": f <- f + F (Parmar et al. 2022,
        section 3.2); "scale-and-shift": f <- f (1 + scale) + shift (Wang et al. 2022, HFGI, equation 6).
    Starts from what the view has there, so that only "replace" changes the picture.
    """

    name: ClassVar[str] = "f"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Renders, Featured)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})

    places: tuple[str, ...] = ()
    way: Literal["replace", "set", "residual", "scale-and-shift"] = "replace"

    def chosen(self, view: View) -> tuple[str, ...]:
        """The places' names. Raises UserError for unknown ones."""
        shapes = _featured(view).feature_shapes()
        unknown = [name for name in self.places if name not in shapes]
        if unknown:
            raise UserError(f"There are no features at {unknown[0]!r}; there are some at {', '.join(shapes)}.")
        return self.places or (first_place(shapes, _BASE_SIZE),)

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        shapes = _featured(view).feature_shapes()
        chosen = self.chosen(view)
        if self.way in ("replace", "set"):
            found = self._current(view, reference)
            return self.code({f"{name}/{self.way}": found[name].detach().contiguous().clone() for name in chosen})
        parts = ("shift",) if self.way == "residual" else ("scale", "shift")
        dtype = reference.images.dtype
        return self.code(
            {
                f"{name}/{part}": torch.zeros(len(reference), *shapes[name], dtype=dtype)
                for name in chosen
                for part in parts
            }
        )

    @staticmethod
    def _current(view: View, reference: Reference) -> Mapping[str, Tensor]:
        """The features that the view has; those of the mean w where no style is bound yet."""
        with torch.no_grad():
            if "styles" in view.slots or "channels" in view.slots:
                return _featured(view).features_of(view, reference.index)
            mean = spaces.get("w")().initial(view, reference, rng=Random(0))
            with view.bound(Concept([mean], name="<mean>")) as bound:
                return _featured(bound).features_of(bound, reference.index)

    def bind(self, view: View, code: Code, name: str) -> None:
        weight = view.binding.weight

        def read() -> Mapping[str, Tensor]:
            if weight == 1.0:
                return code.tensors
            found = {}
            for key, value in code.tensors.items():
                place, _, part = key.rpartition("/")
                if part in ("scale", "shift"):
                    found[key] = value * weight
                else:
                    found[key], found[f"{place}/weight"] = value, torch.full((len(value),), weight, dtype=value.dtype)
            return found

        view.slot("features", code, read)


spaces.register("f", FeatureMaps)
