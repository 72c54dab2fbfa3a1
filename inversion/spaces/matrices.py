"""What parameter spaces share: a few tensors for each matrix, and how they change it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Tunable
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor
from unified.contract.space import Space
from unified.contract.view import View
from unified.errors import UserError

Change = Callable[[Tensor, Mapping[str, Tensor], float], Tensor]


def selected(paths: Sequence[str], pattern: str) -> list[str]:
    """The paths that match a regular expression. Raises UserError if none does."""
    chosen = [path for path in paths if re.search(pattern, path)]
    if not chosen:
        raise UserError(f"No weight of the generator matches {pattern!r}; there are {', '.join(paths[:6])}, ...")
    return chosen


def tunable(view: View) -> Tunable:
    backbone = view.backbone
    assert isinstance(backbone, Tunable)
    return backbone


@dataclass(frozen=True)
class MatrixSpace(Space):
    """A change of single matrices, W -> f(W, parts); tensors are `<path>.<part>`, paths match `paths`.

    Subclasses give the parts to start from (where f(W, parts) is W, bit for bit) and f.
    """

    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Tunable,)

    paths: str = ""

    def candidates(self, view: View) -> tuple[str, Sequence[str]]:
        """The component and the paths to choose from; by default those that adapters go to."""
        return tunable(view).adaptable()

    @abstractmethod
    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        """The parts for a matrix [out, in] or a convolution [out, in, height, width]."""

    @abstractmethod
    def change(self, view: View, component: str, path: str) -> Change:
        """f for this path: (W, parts, weight) -> W'. Weight 0 gives W back, 1 the code as inverted."""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        component, paths = self.candidates(view)
        module = view.backbone.components[component]
        tensors: dict[str, Tensor] = {}
        for path in selected(list(paths), self.paths):
            for part, value in self.start(pristine_tensor(module, path), rng.child(path)).items():
                tensors[f"{path}.{part}"] = value
        return self.code(tensors, component=component)

    def bind(self, view: View, code: Code, name: str) -> None:
        component, weight = code.meta["component"], view.binding.weight
        parts: dict[str, list[str]] = {}
        for key in code.tensors:
            path, _, part = key.rpartition(".")
            parts.setdefault(path, []).append(part)
        for path, names in parts.items():
            view.replace(component, path, _bound(code, path, names, self.change(view, component, path), weight))


def _bound(code: Code, path: str, parts: Sequence[str], change: Change, weight: float) -> Callable[[Tensor], Tensor]:
    def changed(base: Tensor) -> Tensor:
        if weight == 0.0:
            return base
        return change(base, {part: code.tensors[f"{path}.{part}"] for part in parts}, weight)

    return changed
