"""Masked token replacement: parts of a picture drawn anew, the other visual tokens kept (survey section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from unified.contract.abilities import Reads, Tokenises
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.errors import UserError


def holds_tokens(concept: Concept) -> bool:
    """Whether the concept has visual tokens of its pictures."""
    return any(space_of(code).kind is Kind.TOKEN for code in concept.codes)


class TokenReplacement(Scheme):
    """Draw anew where `sampling["redraw"]` is above one half, in the model's own order; keep the other tokens.

    redraw: rows of numbers over the picture, of any size: [[0, 0], [1, 1]] is the lower half. The kept tokens
    are put where the model would choose. A model that draws row by row sees only what is kept above and to the
    left of a place; one that draws scale by scale sees the coarse scales of everything.
    """

    name: ClassVar[str] = "replace-tokens"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        if not any(holds_tokens(concept) for concept in concepts):
            return "there are no visual tokens to keep; invert the picture with recipe='tokenize' first"
        return None

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        reason = self.refuse(type(backbone), concepts)
        if reason is not None:
            raise UserError(f"Tokens cannot be replaced: {reason}.")
        if target.sampling.get("redraw") is None:
            raise UserError(
                "Nothing says what to draw anew: give sampling={'redraw': rows of numbers}, 1 where it shall change."
            )
        with backbone.bound(*concepts) as view:
            return view.sample(target, rng=rng)


schemes.register(TokenReplacement.name, TokenReplacement())
