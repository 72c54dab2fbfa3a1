"""Batches of a source and its target, as `unified.denoising.sampler.sample_pair` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unified.contract.abilities import Denoises
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """Rows [source 0..n-1, target 0..n-1], twice with guidance: first under the negative prompt."""

    count: int

    def sources(self, rows: int) -> list[slice]:
        """The source's rows in each part of a batch of `rows`; the last part is the conditional one."""
        return [slice(first, first + self.count) for first in range(0, rows, 2 * self.count)]

    def targets(self, rows: int) -> list[slice]:
        return [slice(part.stop, part.stop + self.count) for part in self.sources(rows)]


def check_source(target: Target, concepts: Sequence[Concept]) -> None:
    """Raise UserError if there is neither a text of the source nor an inverted picture to begin from."""
    if not target.prompt:
        raise UserError("This scheme goes from a source to a prompt, and no prompt was given: say what it shall show.")
    if not target.source and not any(code.per_picture for concept in concepts for code in concept.codes):
        raise UserError(
            "This scheme goes from a source to a prompt: give source='...' (what the picture shows), or a concept that"
            " holds an inverted picture (as the recipe 'ddim-inversion' makes)."
        )


def decoded(backbone: Backbone, view: View, latents: Tensor) -> Tensor:
    assert isinstance(backbone, Denoises)
    return backbone.decode(view, latents).clamp(0, 1)
