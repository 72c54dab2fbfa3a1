"""Learning rates of a recipe."""

from collections.abc import Sequence
from typing import TypeAlias

#: One for all stages, or one for each.
Rates: TypeAlias = float | Sequence[float]
