"""Keys and values of reference pictures, seen by some layers and at some places of the new picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from editing.injection import Injection
from unified.contract.abilities import Reads, Tokenises
from unified.contract.code import Code
from unified.contract.memory import Remembers
from unified.contract.scheme import schemes
from unified.contract.space import spaces
from unified.contract.view import View


@dataclass(frozen=True)
class ReferenceInjection(Injection):
    """What the model remembers of a concept's pictures stands before the prompt.

    The sampler's `gate` says which places of the new picture see them, the concept's weight how strongly.
    """

    name: ClassVar[str] = "reference-injection"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads, Remembers)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def remember(self, view: View, codes: Tensor, prompt: str) -> Code:
        assert isinstance(view.backbone, Remembers)
        memory = view.backbone.remember(view, prompt, codes)
        kind: Any = spaces.get("reference-kv")
        code: Code = kind(references=self.references, layers=self.layers).code(
            {"keys": memory.keys, "values": memory.values}, opens=memory.opens
        )
        return code


schemes.register(ReferenceInjection.name, ReferenceInjection())
