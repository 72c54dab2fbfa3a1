"""Where E4T (Gal et al. 2023) begins and tunes: the class word moved by an encoder, and offsets of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from inversion.spaces.class_word import class_rows, held_rows, reads
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Denoises, Reads, ReadsByLayer, Speaks, Tunable
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import PictureEncoder, encoder_of

_ENCODER = "e4t"


class WordAndOffsets(PictureEncoder, Protocol):
    """What the spaces ask of the encoder that was trained for the backbone."""

    def encode(self, view: View, reference: Reference, *, rng: Random) -> Tensor: ...

    def offsets(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class EncodedWord(Space):
    """The class word's row plus strength times an offset [1, width] that an encoder predicts.

    Tensors are `offset`, and `row/<component>`, which stays. Scaled by the concept's weight. penalty: weight of
    |strength offset|^2, which keeps the word near its class (the paper's regularisation).
    """

    name: ClassVar[str] = "e4t"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks, ReadsByLayer, Denoises)
    encodes: ClassVar[bool] = True

    weights: str = ""
    strength: float = 0.1
    penalty: float = 0.01

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        components = list(speaks(view.backbone).text_outputs())
        if len(components) != 1:
            raise UserError(f"E4T predicts the word of one text encoder; {view.backbone.id} has {len(components)}.")
        encoder: WordAndOffsets = encoder_of(view.backbone, _ENCODER, self.weights)
        offset = encoder.encode(view, reference, rng=rng).clone()
        return self.code({"offset": offset, **class_rows(view, reference)})

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def prior(self, view: View, code: Code) -> Tensor:
        return self.penalty * (self.strength * code.tensors["offset"]).square().sum().reshape(1)

    def bind(self, view: View, code: Code, name: str) -> None:
        scale = self.strength * view.binding.weight

        def reader(component: str) -> Callable[[], Tensor]:
            return lambda: code.tensors[f"row/{component}"] + scale * code.tensors["offset"]

        view.name_rows(name, 1, {text.component: reader(text.component) for text in reads(view.backbone).texts()})


@dataclass(frozen=True)
class WeightOffsets(Space):
    """W (1 + column row + bias) for the attention's matrices, begun where the encoder's training ended.

    `<path>.column` [out, 2], `<path>.row` [2, in], `<path>.bias` [in]; scaled by the concept's weight.
    """

    name: ClassVar[str] = "weight-offsets"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Tunable, ReadsByLayer)
    encodes: ClassVar[bool] = True

    weights: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Tunable)
        encoder: WordAndOffsets = encoder_of(backbone, _ENCODER, self.weights)
        parts = {name: value.clone() for name, value in encoder.offsets().items()}
        return self.code(parts, component=backbone.adaptable()[0])

    def bind(self, view: View, code: Code, name: str) -> None:
        for key in code.tensors:
            path, _, part = key.rpartition(".")
            if part == "bias":
                view.replace(code.meta["component"], path, _moved(code, path, view.binding.weight))


def _moved(code: Code, path: str, weight: float) -> Callable[[Tensor], Tensor]:
    def change(base: Tensor) -> Tensor:
        column, row, bias = (code.tensors[f"{path}.{part}"] for part in ("column", "row", "bias"))
        return base * (1 + weight * (column @ row + bias)).to(base.dtype)

    return change


spaces.register("e4t", EncodedWord)
spaces.register("weight-offsets", WeightOffsets)
