"""Likeness of the person."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.extractors import identity
from unified.zoo.registry import folder_of


class Embedder(Protocol):
    """Pictures [N,3,H,W] in 0..1 -> unit vectors [N,D] that say who is shown, differentiable."""

    def embed(self, images: Tensor) -> Tensor: ...


@functools.cache
def embedded_identity() -> Embedder:
    """The shared network of avatars/identity (frozen; read once). Raises UserError if it has not been built."""
    return identity.load(folder_of("avatars/identity"))


@dataclass(frozen=True)
class Identity(Objective):
    """1 - cosine of the embeddings of who is shown (Richardson et al. 2021, pSp, equation 3); 0..2.

    The embedding is that of avatars, which says nothing of photographs of people.
    """

    name: ClassVar[str] = "identity"
    weight: float = 0.1

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        embedder = embedded_identity()
        target = attempt.reference.once("identity", lambda images: embedder.embed(images.float()))
        found = embedder.embed(attempt.render().float())
        return 1 - (found * target).sum(1).to(attempt.error.dtype)


objectives.register("identity", Identity)
