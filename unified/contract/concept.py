"""What inversion returns, as an object. Its file format is in `unified.concept_file`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unified.contract.code import Code
from unified.errors import UserError


@dataclass(eq=False)
class Concept:
    """One or more codes in bind order, the name that stands for them in a prompt, and where they came from.

    name: placeholder in prompts ("<me>"). carrier: the text that stands for the name where no code brings
    rows of its own ("sks person"). category: class word ("person"). backbone, fingerprint: the generator it
    was inverted on. meta: JSON provenance; "names": further names and their carriers, of merged concepts (their codes
    say in their own meta "name" which name they stand under). weight: how strongly it is bound, 1 as inverted.
    """

    codes: list[Code]
    name: str = "<me>"
    carrier: str = ""
    category: str = ""
    backbone: str = ""
    fingerprint: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def names(self) -> dict[str, str]:
        """Every name it brings to prompts, and the text that carries it: of a merged concept several."""
        return {self.name: self.carrier or self.category, **self.meta.get("names", {})}

    def scaled(self, weight: float) -> Concept:
        """The same concept bound with another weight (1 = as inverted, 0 = without effect)."""
        return replace(self, weight=self.weight * weight)

    def renamed(self, name: str) -> Concept:
        return replace(self, name=name)

    def only(self, *spaces: str) -> Concept:
        """The part of it that lies in these spaces, such as "style-lora". Raises UserError if there is none."""
        codes = [code for code in self.codes if code.space in spaces]
        if not codes:
            there = ", ".join(dict.fromkeys(code.space for code in self.codes))
            raise UserError(f"The concept {self.name!r} has nothing in {', '.join(spaces)}; it has: {there}.")
        return self.with_codes(codes)

    def with_codes(self, codes: Sequence[Code]) -> Concept:
        return replace(self, codes=list(codes))

    @property
    def pictures(self) -> int | None:
        """How many pictures its per-picture codes hold, or None."""
        counts = [code.pictures for code in self.codes if code.pictures is not None]
        return counts[0] if counts else None

    @property
    def gives_back(self) -> bool:
        """Whether, without a prompt, it leads back to its pictures."""
        from unified.contract.space import space_of

        return any(code.per_picture and space_of(code).gives_back for code in self.codes)

    def save(self, path: str | Path) -> Path:
        """Write a concept file (.safetensors); see :mod:`unified.concept_file`."""
        from unified.concept_file import save_concept

        return save_concept(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Concept:
        """Read a concept file. Raises UserError if it is missing, truncated or altered."""
        from unified.concept_file import load_concept

        return load_concept(Path(path))
