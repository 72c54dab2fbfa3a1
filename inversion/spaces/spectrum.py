"""Words that differ between the layers of the generator (P+) or the times of its sampling (ProSpect)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inversion.spaces.class_word import check_weight, class_row, class_text, reads
from unified.contract.abilities import Denoises, Reads, ReadsByLayer
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reading import Moment
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class LayerWords(Space):
    """One word for each cross-attention layer (Voynov et al. 2023, P+, section 3.2): `<component>` [layers, 1, width].

    Each layer reads the prompt with its own word in it. All start at the class word.
    """

    name: ClassVar[str] = "layer-words"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, ReadsByLayer)

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, ReadsByLayer)
        return _repeated(self, view, reference, len(backbone.text_layers()))

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        readers = {component: _row_of(view, code, component, _layer) for component in code.tensors}
        view.name_rows(name, 1, readers, varies=frozenset({"layer"}))


@dataclass(frozen=True)
class StageWords(Space):
    """One word for each stage of sampling (Zhang et al. 2023, ProSpect, section 3.2): `<component>` [stages, 1, width].

    The stages part the times evenly, the first one is the noisiest: layout comes before content, content
    before material. All start at the class word.
    """

    name: ClassVar[str] = "stage-words"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Denoises)

    stages: int = 10

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        return _repeated(self, view, reference, self.stages)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        readers = {component: _row_of(view, code, component, self._stage) for component in code.tensors}
        view.name_rows(name, 1, readers, varies=frozenset({"time"}))

    def _stage(self, moment: Moment) -> Tensor:
        return ((1 - moment.time) * self.stages).long().clamp(0, self.stages - 1)


def _layer(moment: Moment) -> Tensor:
    return moment.layer


def _repeated(space: Space, view: View, reference: Reference, count: int) -> Code:
    words = class_text(reference)
    texts = reads(view.backbone).texts()
    return space.code({t.component: class_row(view.backbone, t, words).repeat(count, 1, 1) for t in texts})


def _row_of(view: View, code: Code, component: str, choose: Callable[[Moment], Tensor]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        moment = view.reading.moment
        assert moment is not None
        return code.tensors[component][choose(moment)]

    return read


spaces.register("layer-words", LayerWords)
spaces.register("stage-words", StageWords)
