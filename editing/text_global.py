"""Text-driven edits by StyleCLIP's global directions, as a scheme (Patashnik et al. 2021, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editing.apply import apply_shift
from editing.find.styleclip import METHOD, effects_file, load_effects
from editing.nada import neutral_text
from editing.paths import Shift
from editing.scorers import TextScorer, embedded_clip
from editing.styleclip import plain_text
from editing.styleclip_global import BETA, Wish, direction_of
from editing.styles import gan_of, style_places, with_samples
from editing.wording import asked
from unified.contract.backbone import Backbone, Renders, Styled
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target
from unified.errors import UserError


@dataclass(frozen=True)
class TextGlobal(EditScheme):
    """Move the concept's style channels by what the prompt says beyond the source: no optimisation.

    alpha: strength (the paper: 3 to 5 show). beta: least relevance of a channel that moves. Needs what `unified
    edit --find styleclip` prepares. The same as the edit "styleclip:SOURCE -> PROMPT" of strength alpha, but that
    a prompt that only words the source otherwise moves nothing (see `asked`).
    """

    name: ClassVar[str] = "text-global"
    needs: ClassVar[tuple[type, ...]] = (Renders, Styled)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    alpha: float = 4.0
    beta: float = BETA
    clip: Callable[[], TextScorer] = embedded_clip

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        bound = with_samples(backbone, concepts, target, rng=rng)
        if not target.prompt:
            return bound
        path = effects_file(backbone.fingerprint)
        if path is None:
            raise UserError(
                f"What the style channels of {backbone.id} do was not measured: `unified edit --find {METHOD}` does,"
                " or choose another scheme: 'text-optimisation' or 'zero-shot-domain'."
            )
        neutral = neutral_text(backbone, target.source, concepts)
        wish = Wish(plain_text(target.prompt, concepts, category=backbone.category), neutral, self.beta)
        scorer = self.clip()
        with torch.no_grad():
            share = float(asked(scorer, wish.target, wish.neutral).norm())
            if share == 0:
                return bound
            direction = direction_of(backbone, load_effects(path, backbone), scorer, wish)
        number, _ = gan_of(backbone).style_shape()
        shift = Shift(channels=self.alpha * share * direction.shift(number))
        return [apply_shift(backbone, c, shift) if style_places(c) else c for c in bound]


schemes.register(TextGlobal.name, TextGlobal())
