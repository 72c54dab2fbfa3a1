"""Edits by text with a matrix from steps in CLIP's space to steps of style vectors: as edits, and as a scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional

from editing.apply import apply_shift
from editing.by_text import text_methods
from editing.directions import Direction
from editing.find.text_steps import METHOD, load_steps, steps_file
from editing.paths import Shift
from editing.scorers import TextScorer, embedded_clip
from editing.styleclip_global import Wish, category_text
from editing.styles import gan_of, style_places
from editing.worded_edit import WordedEdit, Words
from editing.wording import asked
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.scheme import schemes
from unified.errors import UserError

STRENGTH = 0.8  # in CLIP's space, where unit vectors are pictures: about what one attribute makes


@dataclass(frozen=True)
class TextStepEdits:
    """Makes directions from words where `unified edit --find text-steps` prepared the backbone.

    Strength 1 goes as far as the scheme does by itself.
    """

    clip: Callable[[], TextScorer] = embedded_clip
    strength: float = 1.0

    def maker(self, backbone: Backbone) -> Callable[[str], Direction] | None:
        path = steps_file(backbone.fingerprint) if isinstance(backbone, Renders) else None
        if path is None:
            return None

        def make(words: str) -> Direction:
            wish = Wish.read(words, method=METHOD)
            with torch.no_grad():
                step = asked(self.clip(), wish.target, wish.neutral or category_text(backbone, METHOD))
                shift = STRENGTH * load_steps(path, backbone).shift(step)
            if not bool(shift.any()):
                raise UserError(f"'{wish.target}' says no more than the neutral text does: ask for something.")
            return Direction(functional.normalize(shift, dim=0), float(shift.norm()))

        return make

    def about(self, backbone: Backbone) -> str:
        path = steps_file(backbone.fingerprint)
        assert path is not None
        steps = load_steps(path, backbone)
        example = f"any text, such as {METHOD}:a person with glasses"
        return f"{example}; by {METHOD}, judged by {steps.scorer} on {steps.data}"


@dataclass(frozen=True)
class TextSteps(WordedEdit):
    """Move the concept's styles by what the prompt says beyond the source: no optimisation.

    strength: length of the step in CLIP's space, whose pictures are unit vectors. Needs what `unified edit --find
    text-steps` prepares.
    """

    name: ClassVar[str] = METHOD
    needs: ClassVar[tuple[type, ...]] = (Renders,)

    strength: float = STRENGTH

    def prepared(self, backbone: Backbone) -> Path:
        path = steps_file(backbone.fingerprint)
        if path is None:
            raise UserError(
                f"What texts mean in the styles of {backbone.id} was not measured: `unified edit --find {METHOD}` does,"
                " or choose another scheme: 'text-optimisation' or 'zero-shot-domain'."
            )
        return path

    def moved(self, backbone: Backbone, concepts: Sequence[Concept], file: Path, words: Words) -> list[Concept]:
        styles = self.strength * load_steps(file, backbone).shift(words.step)
        number, _ = gan_of(backbone).style_shape()
        shift = Shift(styles=styles.expand(number, -1))
        return [apply_shift(backbone, c, shift) if style_places(c) else c for c in concepts]


text_methods.register(METHOD, TextStepEdits())
schemes.register(TextSteps.name, TextSteps())
