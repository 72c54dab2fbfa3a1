"""What one concept shows in the style of another (Frenkel et al. 2024, B-LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unified.contract.abilities import SeparatesStyle
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.merging import Merge, codes_in, merges, united, weighed

CONTENT, STYLE = "content-lora", "style-lora"


@dataclass(frozen=True)
class ContentAndStyle(Merge):
    """The first concept's change of the content block with the second one's of the style block (section 4.2)."""

    name: ClassVar[str] = "content-style"
    needs: ClassVar[tuple[type, ...]] = (SeparatesStyle,)
    summary: ClassVar[str] = "what the first concept shows, in the style of the second (B-LoRA)"
    cite: ClassVar[str] = "Frenkel et al. 2024, Implicit Style-Content Separation using B-LoRA, section 4"

    def refuse(self, concepts: Sequence[Concept]) -> str | None:
        if len(concepts) != 2:
            return f"it takes what to show and then a style, and {len(concepts)} concepts were given"
        for concept, space in zip(concepts, (CONTENT, STYLE), strict=True):
            if not codes_in(concept, space):
                return f"{concept.name} has no part {space!r}; invert with b-lora"
        return None

    def merged(self, backbone: Backbone, concepts: Sequence[Concept], *, rng: Random, progress: Progress) -> Concept:
        codes = [
            weighed(codes_in(concept, space)[-1], concept.weight)
            for concept, space in zip(concepts, (CONTENT, STYLE), strict=True)
        ]
        return united(concepts, codes)


merges.register(ContentAndStyle.name, ContentAndStyle())
