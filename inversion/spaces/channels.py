"""StyleSpace S: the modulation of every channel of every layer (Wu et al. 2021; survey section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Renders, Styled
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


def _mean_channels(view: View) -> Mapping[str, Tensor]:
    """The modulations [1, channels] that the mean w gives."""
    backbone = view.backbone
    assert isinstance(backbone, Renders) and isinstance(backbone, Styled)
    number, _ = backbone.style_shape()
    mean, _ = backbone.style_statistics()
    with torch.no_grad():
        return backbone.channels_of(view, mean.repeat(1, number, 1))


@dataclass(frozen=True)
class StyleChannels(Space):
    """One number for every channel of every modulated layer, RGB layers among them: {layer: [pictures, channels]}.

    s_l = A_l w_l + b_l, freed of w (Wu et al. 2021, StyleSpace Analysis, section 3). Starts from an earlier
    stage's styles if there are any, else from the mean w. Takes the place of style vectors in the view.
    """

    name: ClassVar[str] = "s"
    kind: ClassVar[Kind] = Kind.STYLE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Renders, Styled)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Styled)
        if "channels" in view.slots:
            found: Mapping[str, Tensor] = view.slots["channels"].read()
        elif "styles" in view.slots:
            with torch.no_grad():
                found = backbone.channels_of(view, view.slots["styles"].read())
        else:
            found = {name: value.repeat(len(reference), 1) for name, value in _mean_channels(view).items()}
        return self.code({name: value.detach().clone() for name, value in found.items()})

    def bind(self, view: View, code: Code, name: str) -> None:
        weight = view.binding.weight
        mean = {} if weight == 1.0 else _mean_channels(view)

        def read() -> Mapping[str, Tensor]:
            if weight == 1.0:
                return code.tensors
            return {layer: mean[layer].to(s.dtype).lerp(s, weight) for layer, s in code.tensors.items()}

        view.slot("channels", code, read, instead_of=("styles",))


spaces.register("s", StyleChannels)
