"""Keys and values of reference pictures, seen by some layers and at some places of the new picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.token_replacement import holds_tokens
from unified.contract.backbone import Backbone, Reads, Tokenises
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.memory import Remembers
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.space import space_of, spaces
from unified.contract.target import Target
from unified.errors import UserError


@dataclass(frozen=True)
class ReferenceInjection(Scheme):
    """What the model remembers of a concept's pictures stands before the prompt; nothing is learnt.

    Concepts of visual tokens are turned into keys and values, read by the model as the concept's other codes
    (a LoRA) make it. layers: those that see them; () for all. references: pictures of each concept. The
    sampler's `gate` says which places of the new picture see them, the concept's weight how strongly.
    """

    name: ClassVar[str] = "reference-injection"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads, Remembers)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    layers: tuple[int, ...] = ()
    references: int = 1

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        if not any(holds_tokens(concept) for concept in concepts):
            return "no concept brings pictures as visual tokens; invert with recipe='tokenize' or 'in-context'"
        return None

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        reason = self.refuse(type(backbone), concepts)
        if reason is not None:
            raise UserError(f"Nothing can be injected: {reason}.")
        changed = [self.remembered(backbone, c) if holds_tokens(c) else c for c in concepts]
        with backbone.bound(*changed) as view:
            return view.sample(target, rng=rng)

    def remembered(self, backbone: Backbone, concept: Concept) -> Concept:
        """The concept with keys and values in place of its visual tokens."""
        assert isinstance(backbone, Remembers)
        tokens = [code for code in concept.codes if space_of(code).kind is Kind.TOKEN]
        others = [code for code in concept.codes if space_of(code).kind is not Kind.TOKEN]
        with torch.no_grad():
            with backbone.bound(concept.with_codes(tokens[-1:])) as view:
                pictures = next(iter(view.slots.values())).read()[: self.references]
            with backbone.bound(concept.with_codes(others)) as view:
                memory = backbone.remember(view, "", pictures)
        space = spaces.get("reference-kv")(references=self.references, layers=self.layers)  # type: ignore[call-arg]
        code: Code = space.code({"keys": memory.keys, "values": memory.values}, opens=memory.opens)
        return concept.with_codes([*others, code])


schemes.register(ReferenceInjection.name, ReferenceInjection())
