"""Text-driven edits by StyleCLIP's global directions, as a scheme (Patashnik et al. 2021, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from editing.apply import apply_shift
from editing.find.styleclip import METHOD, effects_file, load_effects
from editing.paths import Shift
from editing.styleclip_global import BETA, Wish, direction_of
from editing.styles import gan_of, style_places
from editing.worded_edit import WordedEdit, Words
from unified.contract.abilities import Renders, Styled
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.scheme import schemes
from unified.errors import UserError


@dataclass(frozen=True)
class TextGlobal(WordedEdit):
    """Move the concept's style channels by what the prompt says beyond the source: no optimisation.

    alpha: strength (the paper: 3 to 5 show). beta: least relevance of a channel that moves. Needs what `unified
    edit --find styleclip` prepares. The same as the edit "styleclip:SOURCE -> PROMPT" of strength alpha, but that
    a prompt that only words the source otherwise moves nothing (see `asked`).
    """

    name: ClassVar[str] = "text-global"
    needs: ClassVar[tuple[type, ...]] = (Renders, Styled)

    alpha: float = 4.0
    beta: float = BETA

    def prepared(self, backbone: Backbone) -> Path:
        path = effects_file(backbone.fingerprint)
        if path is None:
            raise UserError(
                f"What the style channels of {backbone.id} do was not measured: `unified edit --find {METHOD}` does,"
                " or choose another scheme: 'text-optimisation' or 'zero-shot-domain'."
            )
        return path

    def moved(self, backbone: Backbone, concepts: Sequence[Concept], file: Path, words: Words) -> list[Concept]:
        wish = Wish(words.target, words.neutral, self.beta)
        direction = direction_of(backbone, load_effects(file, backbone), words.scorer, wish)
        number, _ = gan_of(backbone).style_shape()
        shift = Shift(channels=self.alpha * float(words.step.norm()) * direction.shift(number))
        return [apply_shift(backbone, c, shift) if style_places(c) else c for c in concepts]


schemes.register(TextGlobal.name, TextGlobal())
