"""Keys and values of reference pictures, seen at some scales and places of a picture drawn scale by scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from editing.injection import Injection
from unified.contract.abilities import Reads, Tokenises
from unified.contract.code import Code
from unified.contract.scale_memory import RemembersScales
from unified.contract.scheme import schemes
from unified.contract.space import spaces
from unified.contract.tokens import PredictsScales
from unified.contract.view import View


@dataclass(frozen=True)
class ScaleInjection(Injection):
    """Every token sees, beside its own picture, what the layers made of a concept's pictures.

    The pictures are read with `target.source` ("" without one). scales: those that see them; () for all. The
    sampler's `gate` says how much each place of the new picture sees of them, its `gate_scales` how much each
    scale, and the concept's weight how much all of it.
    """

    name: ClassVar[str] = "scale-injection"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads, PredictsScales, RemembersScales)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    scales: tuple[int, ...] = ()

    def remember(self, view: View, codes: Tensor, prompt: str) -> Code:
        kind: Any = spaces.get("scale-reference")
        space = kind(references=self.references, layers=self.layers, scales=self.scales, prompt=prompt)
        code: Code = space.read(view, codes)
        return code


schemes.register(ScaleInjection.name, ScaleInjection())
