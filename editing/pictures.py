"""What the schemes that edit the latents of pictures share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unified.contract.concept import Concept
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.sampler import inverted_prompts
from unified.errors import UserError


def latents_refusal(concepts: Sequence[Concept], recipe: str) -> str | None:
    """Why the concepts do not give the latents of pictures."""
    if any(code.space == "latents" for concept in concepts for code in concept.codes):
        return None
    return f"it edits the pictures' latents: invert with the recipe {recipe!r}"


def pictures_of(view: View, target: Target) -> tuple[Tensor, list[int]]:
    """(latents [n, *latent_shape], their rows) of the bound pictures, as many as the target asks for."""
    slot = view.slots.get("data")
    if slot is None:
        raise UserError("No concept with a picture's latents is bound: invert with the recipe 'flow-edit' or its like.")
    rows = list(range(target.n or slot.code.pictures or 1))
    return slot.rows(rows)["latents"], rows


def source_prompts(view: View, target: Target, rows: Sequence[int]) -> list[str]:
    """The text of each picture as it is: the target's source, else its caption, else the empty prompt."""
    return [target.source] * len(rows) if target.source else inverted_prompts(view, rows)


def as_inverted(target: Target) -> bool:
    """Whether nothing is asked but the pictures themselves. Raises UserError for a source without a prompt."""
    if target.source and not target.prompt:
        raise UserError(
            f"The source {target.source!r} was given and no prompt: say what the picture shall show instead."
        )
    return not target.prompt
