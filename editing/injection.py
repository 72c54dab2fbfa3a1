"""Schemes that turn a concept's visual tokens into keys and values which the new picture sees; nothing is learnt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.token_replacement import holds_tokens
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Injection(Scheme):
    """The pictures are read by the model as the concept's other codes (a LoRA) make it.

    layers: those that see them; () for all. references: pictures of each concept.
    """

    layers: tuple[int, ...] = ()
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

    @abstractmethod
    def remember(self, view: View, codes: Tensor, prompt: str) -> Code:
        """The keys and values of pictures given as visual tokens [n,...], read with `prompt` by the bound model."""

    def remembered(self, backbone: Backbone, concept: Concept, prompt: str) -> Concept:
        """The concept with keys and values in place of its visual tokens."""
        tokens, others = apart(concept)
        with torch.no_grad():
            with backbone.bound(concept.with_codes(tokens[-1:])) as view:
                pictures = next(iter(view.slots.values())).read()[: self.references]
            with backbone.bound(concept.with_codes(others)) as view:
                code = self.remember(view, pictures, prompt)
        return concept.with_codes([*others, code])


def apart(concept: Concept) -> tuple[list[Code], list[Code]]:
    """(codes of visual tokens, the others)."""
    tokens = [code for code in concept.codes if space_of(code).kind is Kind.TOKEN]
    return tokens, [code for code in concept.codes if space_of(code).kind is not Kind.TOKEN]
