"""Token spaces of autoregressive models (survey section 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Tokenises
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.tokens import Quantises, ReadsPictures
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class VisualTokens(Space):
    """Discrete visual tokens of each picture: tokens int64 [pictures, h, w].

    Starts from an earlier stage's tokens if there are any, else from the nearest codes.
    """

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
        if "tokens" in view.slots:
            return self.code({"tokens": view.slots["tokens"].read().detach().clone()})
        return self.code({"tokens": backbone.codes(view, reference.images)})

    def bind(self, view: View, code: Code, name: str) -> None:
        view.slot("tokens", code, lambda: code.tensors["tokens"], instead_of=("token-vectors",))
        if isinstance(view.backbone, Quantises):
            view.slot("token-vectors", code, _lookup(view.backbone, code))


def _lookup(backbone: Quantises, code: Code) -> Callable[[], Tensor]:
    return lambda: backbone.vectors_of(code.tensors["tokens"])


@dataclass(frozen=True)
class TokenLatents(Space):
    """What is rounded to visual tokens, latents [pictures, D, h, w]; the gradient passes the rounding straight.

    van den Oord et al. 2017, Neural Discrete Representation Learning, section 3.2, with the picture's latents in
    place of the encoder's output. Starts at that output, so that without a step it is the nearest codes. The
    tokens are those of space 'tokens' in every other respect.
    """

    name: ClassVar[str] = "token-latents"
    kind: ClassVar[Kind] = Kind.TOKEN
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Quantises)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})
    encodes: ClassVar[bool] = True

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Quantises)
        return self.code({"latents": backbone.token_latents(view, reference.images).detach()})

    def bind(self, view: View, code: Code, name: str) -> None:
        backbone = view.backbone
        assert isinstance(backbone, Quantises)
        view.slot("tokens", code, lambda: backbone.quantise(code.tensors["latents"])[1])
        view.slot("token-vectors", code, lambda: backbone.quantise(code.tensors["latents"])[0])


@dataclass(frozen=True)
class Context(Space):
    """Reference pictures in the prompt, where the model reads them as tokens: tokens int64 [pictures, h, w].

    references: how many of the pictures are shown at a time. In training sequences a picture is explained
    beside the others, never beside itself. A model must have been trained with pictures in its context.
    """

    name: ClassVar[str] = "context"
    kind: ClassVar[Kind] = Kind.TOKEN
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Tokenises, ReadsPictures)
    per_picture: ClassVar[bool] = True
    gives_back: ClassVar[bool] = False
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()  # discrete
    encodes: ClassVar[bool] = True

    references: int = 2

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tokenises) and isinstance(backbone, ReadsPictures)
        most = backbone.most_pictures()
        if not 1 <= self.references <= most:
            raise UserError(
                f"The context was to show {self.references} pictures at a time; {view.backbone.id} has room for"
                f" 1 to {most} beside the new one."
            )
        return self.code({"tokens": backbone.codes(view, reference.images)})

    def bind(self, view: View, code: Code, name: str) -> None:
        view.slot(f"context/{name}", code, lambda: code.tensors["tokens"])


spaces.register("tokens", VisualTokens)
spaces.register("token-latents", TokenLatents)
spaces.register("context", Context)
