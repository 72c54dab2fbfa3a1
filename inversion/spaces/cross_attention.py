"""The keys and values of cross-attention (Custom Diffusion)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.parameter import replacement
from unified.contract.abilities import Attends
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class KeysValues(Space):
    """The matrices that make text into keys and values (Kumari et al. 2023, section 3.1): `<path>` [out, in].

    hold_first: keys and values of the first token (the begin of the text) give no gradient, as in the
    authors' training, so that what is learnt goes into the words; only where text and picture meet in
    cross-attention, whose first token is that one. Values are not changed by it.
    """

    name: ClassVar[str] = "kv"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.REPLACE
    needs: ClassVar[tuple[type, ...]] = (Attends,)

    hold_first: bool = True

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Attends)
        component, pairs = backbone.text_matrices()
        module = backbone.components[component]
        paths = [path for pair in pairs for path in pair]
        return self.code({p: pristine_tensor(module, p).detach().clone() for p in paths}, component=component)

    def bind(self, view: View, code: Code, name: str) -> None:
        backbone = view.backbone
        assert isinstance(backbone, Attends)
        component = code.meta["component"]
        cross = tuple(f"{place.name}." for place in backbone.places() if place.kind == "cross")
        for path in code.tensors:
            view.replace(component, path, replacement(code, path, view.binding.weight))
            if self.hold_first and path.startswith(cross):
                view.adjust(component, path.removesuffix(".weight"), _hold_first)


def _hold_first(_: Tensor, output: Tensor) -> Tensor:
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)


spaces.register("kv", KeysValues)
