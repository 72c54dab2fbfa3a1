"""Keys and values of reference pictures, seen at some scales and places of a picture drawn scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from editing.token_replacement import holds_tokens
from unified.contract.backbone import Backbone, Reads, Tokenises
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scale_memory import RemembersScales
from unified.contract.scheme import Scheme, schemes
from unified.contract.space import space_of, spaces
from unified.contract.target import Target
from unified.contract.tokens import PredictsScales
from unified.errors import UserError


@dataclass(frozen=True)
class ScaleInjection(Scheme):
    """Every token sees, beside its own picture, what the layers made of a concept's pictures; nothing is learnt.

    Concepts of visual tokens are turned into keys and values, read with `target.source` ("" without one) by the
    model as the concept's other codes (a LoRA) make it. layers, scales: those that see them; () for all.
    references: pictures of each concept. The sampler's `gate` says how much each place of the new picture sees of
    them, its `gate_scales` how much each scale, and the concept's weight how much all of it.
    """

    name: ClassVar[str] = "scale-injection"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads, PredictsScales, RemembersScales)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    layers: tuple[int, ...] = ()
    scales: tuple[int, ...] = ()
    references: int = 1

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        if not any(holds_tokens(concept) for concept in concepts):
            return "no concept brings pictures as visual tokens; invert with recipe='tokenize'"
        return None

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        reason = self.refuse(type(backbone), concepts)
        if reason is not None:
            raise UserError(f"Nothing can be injected: {reason}.")
        changed = [self.remembered(backbone, c, target.source) if holds_tokens(c) else c for c in concepts]
        with backbone.bound(*changed) as view:
            return view.sample(replace(target, source=""), rng=rng)

    def remembered(self, backbone: Backbone, concept: Concept, prompt: str) -> Concept:
        """The concept with keys and values in place of its visual tokens."""
        tokens, others = apart(concept)
        with backbone.bound(concept.with_codes(tokens[-1:])) as view:
            pictures = view.slots["tokens"].read()[: self.references]
        kind: Any = spaces.get("scale-reference")
        space = kind(references=self.references, layers=self.layers, scales=self.scales, prompt=prompt)
        with backbone.bound(concept.with_codes(others)) as view:
            code: Code = space.read(view, pictures)
        return concept.with_codes([*others, code])


def apart(concept: Concept) -> tuple[list[Code], list[Code]]:
    """(codes of visual tokens, the others)."""
    tokens = [code for code in concept.codes if space_of(code).kind is Kind.TOKEN]
    return tokens, [code for code in concept.codes if space_of(code).kind is not Kind.TOKEN]


schemes.register(ScaleInjection.name, ScaleInjection())
