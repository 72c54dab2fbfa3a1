"""Cosine scores of generation: concept fidelity (CLIP-I, DINO-I, identity), prompt following (CLIP-T).

The averaging is that of DreamBooth (Ruiz et al. 2023, section 4.1): within a prompt over all generated images
and all references, then over the prompts, then over the subjects; so a prompt with more samples counts no
more than another. All functions take features that an extractor passed in by the caller has made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unified.errors import UserError

FIDELITY_AVERAGING = "references > images > prompts"
PROMPT_AVERAGING = "images > prompts"


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [N,M] between the rows of a [N,D] and b [M,D]."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} were to be compared; expected [N,D] "
            "and [M,D] from one extractor"
        )
    return normalize(a, dim=1) @ normalize(b, dim=1).T


def concept_fidelity(generated: Sequence[Tensor], references: Tensor) -> float:
    """Mean cosine in -1..1 of one subject: `generated` features [n,D] per prompt, references [R,D]."""
    _check(generated)
    if len(references) == 0:
        raise UserError("there is no reference to compare with; give at least one")
    return float(torch.stack([cosine_matrix(images, references).mean() for images in generated]).mean())


def prompt_following(generated: Sequence[Tensor], prompts: Tensor) -> float:
    """Mean cosine in -1..1 of each prompt's images, features [n,D], with its text's, prompts [P,D].

    The texts are the prompts with the concept's name taken out ("<me> in a hat" -> "a person in a hat").
    """
    _check(generated)
    if len(prompts) != len(generated):
        raise UserError(f"images of {len(generated)} prompts and {len(prompts)} texts were given; expected as many")
    pairs = zip(generated, prompts, strict=True)
    return float(torch.stack([cosine_matrix(images, text[None]).mean() for images, text in pairs]).mean())


def identity_fidelity(generated: Sequence[Tensor], found: Sequence[Tensor], references: Tensor) -> tuple[float, float]:
    """Mean cosine over the images in which a face was found, and the share of images without one, 0..1.

    generated: features [n,D] for each prompt; found: bool [n] for each prompt. Prompts without any face count
    only in the share. The cosine is NaN if no image has a face.
    """
    _check(generated)
    kept = [images[seen] for images, seen in zip(generated, found, strict=True) if seen.any()]
    missing = 1 - float(torch.cat([seen.double() for seen in found]).mean())
    return (concept_fidelity(kept, references) if kept else float("nan")), missing


def _check(generated: Sequence[Tensor]) -> None:
    if not generated or any(len(images) == 0 for images in generated):
        raise UserError("a prompt has no generated image; every prompt needs at least one to be scored")
