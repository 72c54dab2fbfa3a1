"""Behind the text encoder: what it says to the generator (HiPer, Cones 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.class_word import check_weight, class_rows, class_text, held_rows, read_as_class, said
from unified.contract.abilities import Reads, Speaks
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


def speaks(backbone: Backbone) -> Speaks:
    assert isinstance(backbone, Speaks)
    return backbone


@dataclass(frozen=True)
class LastOutputs(Space):
    """The last `tokens` outputs of the text encoder (Han et al. 2023, HiPer, section 3.2).

    `<component>` [tokens, width].

    They lie behind the end of the sentence and hold what is particular to the concept; the sentence before
    them says the rest. The name is read as the class word, and only prompts with the name are changed.
    """

    name: ClassVar[str] = "hiper"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    tokens: int = 5

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = speaks(view.backbone)
        tensors = class_rows(view, reference)
        with torch.no_grad():
            for component in backbone.text_outputs():
                output, _ = backbone.say(view, component, [class_text(reference)])
                tensors[component] = output[0, -self.tokens :].clone()
        return self.code(tensors)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "The end of a text")
        read_as_class(view, code, name)
        for component in speaks(view.backbone).text_outputs():
            view.edit_text(component, self._change(view, code, component, name))

    def _change(self, view: View, code: Code, component: str, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def change(output: Tensor, ids: Tensor) -> Tensor:
            here = said(view, name, ids).any(1)
            ending = code.tensors[component].to(output.dtype).expand(len(output), -1, -1)
            changed = torch.cat([output[:, : -self.tokens], ending], 1)
            return torch.where(here[:, None, None], changed, output)

        return change


@dataclass(frozen=True)
class OutputResidual(Space):
    """The class word's output plus a residual (Liu et al. 2023, Cones 2, section 3.2): `<component>` [width].

    Added wherever the name is said; scaled by the concept's weight. The start, no residual, is the class word.
    """

    name: ClassVar[str] = "cones2"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        tensors = class_rows(view, reference)
        rows = {key.rpartition("/")[2]: value for key, value in tensors.items()}
        for component, width in speaks(view.backbone).text_outputs().items():
            tensors[component] = torch.zeros(width, dtype=rows[component].dtype)
        return self.code(tensors)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        read_as_class(view, code, name)
        for component in speaks(view.backbone).text_outputs():
            view.edit_text(component, self._change(view, code, component, name, view.binding.weight))

    def _change(
        self, view: View, code: Code, component: str, name: str, weight: float
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def change(output: Tensor, ids: Tensor) -> Tensor:
            here = said(view, name, ids).unsqueeze(-1).to(output.dtype)
            return output + weight * here * code.tensors[component].to(output.dtype)

        return change


spaces.register("hiper", LastOutputs)
spaces.register("cones2", OutputResidual)
