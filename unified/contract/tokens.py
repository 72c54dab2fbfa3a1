"""What models of visual tokens can do beside tokenising, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from unified.contract.reference import Reference
    from unified.contract.view import View


@runtime_checkable
class Quantises(Protocol):
    """Decodes discrete visual tokens through vectors, so that a gradient can reach them."""

    def token_latents(self, view: View, images: Tensor) -> Tensor:
        """Pictures in 0..1 -> what is rounded to tokens, [N,D,h,w]."""
        ...

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(what the rounded latents [N,D,h,w] are, with the gradient passed straight through; codes [N,h,w])."""
        ...

    def vectors_of(self, codes: Tensor) -> Tensor:
        """Codes -> the vectors [N,D,h,w] that are decoded."""
        ...

    def candidates(self, view: View, images: Tensor, count: int) -> Tensor:
        """The `count` nearest codes of each place of the pictures' codes [N,h,w], nearest first: [N,count,h,w]."""
        ...

    def decode_vectors(self, view: View, vectors: Tensor) -> Tensor:
        """Vectors [N,D,h,w] -> pictures in about 0..1, differentiable."""
        ...


@runtime_checkable
class ReadsPictures(Protocol):
    """Reads pictures that stand before the prompt: the view's slots named "context/..." hold their codes."""

    def most_pictures(self) -> int:
        """How many its context holds beside the one it draws."""
        ...


@runtime_checkable
class PredictsScales(Protocol):
    """Draws token maps of growing size; its codes [N,1,tokens] hold them one after the other."""

    def scale_sizes(self) -> Sequence[int]:
        """The number of tokens of every scale, coarsest first."""
        ...


@runtime_checkable
class Answers(Protocol):
    """Reads a picture and a question about it, and answers in words."""

    def answer_error(
        self, view: View, reference: Reference, questions: Sequence[str], answers: Sequence[str]
    ) -> Tensor:
        """Nats of each answer, the mean over its tokens, [N]: said after its picture of `reference` and its question.

        Questions may have the view's names in them. Differentiable in what is bound.
        """
        ...
