"""Parts of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.registry import Registry
from unified.contract.view import View


@dataclass(frozen=True)
class Step:
    """Where the optimisation stands: number, total."""

    number: int
    total: int

    @property
    def progress(self) -> float:
        """In 0..1, 0 at the first step."""
        return self.number / max(self.total, 1)


class Objective(ABC):
    """One term of a loss, averaged per picture. Subclasses are frozen dataclasses with a `weight`.

    requires: what the reference must bring ('masks', 'captions', 'category'). needs: protocols the backbone must have.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type, ...]] = ()
    requires: ClassVar[frozenset[str]] = frozenset()
    weight: float

    def prepare(self, view: View) -> None:
        """Called once before the first step, with the view that will explain the pictures."""

    @abstractmethod
    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        """The term for each picture of the mini-batch, [B], not yet weighted."""

    def state_dict(self) -> Mapping[str, Any]:
        """State that resuming needs; none unless the objective learns (a discriminator)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


objectives: Registry[type[Objective]] = Registry("objective")
