"""Token spaces of autoregressive models (survey section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unified.contract.backbone import Tokenises
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class VisualTokens(Space):
    """Discrete visual tokens of each picture: tokens int64 [pictures, h, w]."""

    name: ClassVar[str] = "tokens"
    kind: ClassVar[Kind] = Kind.TOKEN
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Tokenises,)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()  # discrete
    encodes: ClassVar[bool] = True

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises)
        return self.code({"tokens": backbone.codes(view, reference.images)})

    def bind(self, view: View, code: Code, name: str) -> None:
        view.slot("tokens", code, lambda: code.tensors["tokens"])


spaces.register("tokens", VisualTokens)
