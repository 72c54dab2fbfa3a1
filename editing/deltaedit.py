"""Edits by text with DeltaEdit (Lyu et al. 2023): as named edits "deltaedit:TEXT", and as a scheme."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from editing.apply import apply_shift
from editing.by_text import text_methods
from editing.directions import Direction
from editing.find.deltaedit import METHOD, Delta, delta_file, load_delta
from editing.find.styleclip import effects_file, load_effects
from editing.latent.styleclip import text_direction
from editing.paths import Here, Path, Shift
from editing.scorers import TextScorer, embedded_clip
from editing.styleclip_global import Wish, category_text
from editing.styles import channel_sizes, style_places
from editing.worded_edit import WordedEdit, Words
from unified.contract.abilities import Renders, Styled
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.scheme import schemes
from unified.errors import UserError

BETA = 0.03  # the authors' threshold of relevance


@dataclass(frozen=True, eq=False)
class TextStep:
    """The path of one text: the mapper, asked for the text's step where it was trained on steps between pictures.

    step: unit [D], from the neutral text to the target. moving: 1 for channels that may move, [channels].
    """

    delta: Delta
    scorer: TextScorer
    step: Tensor
    moving: Tensor

    kind: ClassVar[str] = METHOD

    def settings(self) -> dict[str, Any]:
        raise UserError(f"A path by {METHOD} is made from its words whenever it is asked for; it is not stored.")

    def tensors(self) -> dict[str, Tensor]:
        raise UserError(f"A path by {METHOD} is made from its words whenever it is asked for; it is not stored.")

    @torch.no_grad()
    def shift(self, here: Here, name: str, strength: float, keep: Sequence[str]) -> Shift:
        channels, delta = here.channels, self.delta
        now = ((channels.float() - delta.mean) / delta.deviation.clamp(min=1e-12))[:, delta.places]
        picture = self.scorer.image_features(here.images.to(self.step.dtype)).float()
        step = delta.mapper(now, picture, self.step.float().expand(len(now), -1))
        whole = torch.zeros_like(channels)
        whole[:, delta.places] = (step * delta.deviation[delta.places]).to(channels.dtype)
        return Shift(channels=strength * whole * self.moving)


def path_of(backbone: Backbone, delta: Delta, scorer: TextScorer, wish: Wish) -> Path:
    """The path of a text; strength 1 is the mapper's step as it is.

    Where StyleCLIP's effects of the channels are known too, channels whose relevance for the text is less than the
    wish's beta stay, as in the paper; else all move.
    """
    features = scorer.text_features([wish.target, wish.neutral or category_text(backbone, METHOD)])
    step = text_direction(features[0], features[1])
    sizes = channel_sizes(backbone)
    moving = torch.ones(sum(sizes.values()), dtype=backbone.dtype)
    effects = effects_file(backbone.fingerprint)
    if effects is not None:
        relevance = load_effects(effects, backbone).effects @ step.float()
        moving = (relevance.abs() >= wish.beta).to(backbone.dtype)
    return Path(wish.target, TextStep(delta, scorer, step, moving), channels=sizes)


@dataclass(frozen=True)
class DeltaEdits:
    """Makes paths from words where `unified edit --find deltaedit` prepared the backbone."""

    clip: Callable[[], TextScorer] = embedded_clip
    strength: float = 1.0

    def maker(self, backbone: Backbone) -> Callable[[str], Direction | Path] | None:
        path = delta_file(backbone.fingerprint) if isinstance(backbone, Styled) else None
        if path is None:
            return None

        def make(words: str) -> Path:
            with torch.no_grad():
                wish = Wish.read(words, method=METHOD, beta=BETA)
                return path_of(backbone, load_delta(path, backbone), self.clip(), wish)

        return make

    def about(self, backbone: Backbone) -> str:
        path = delta_file(backbone.fingerprint)
        assert path is not None
        delta = load_delta(path, backbone)
        example = f"any text, such as {METHOD}:a person with glasses"
        return f"{example}; depends on the picture; by {METHOD}, judged by {delta.scorer} on {delta.data}"


@dataclass(frozen=True)
class TextPictureDelta(WordedEdit):
    """Move each picture's style channels as DeltaEdit's mapper says of the texts' difference: no optimisation.

    strength: of the mapper's step. Needs what `unified edit --find deltaedit` prepares. The same as the edit
    "deltaedit:SOURCE -> PROMPT" of that strength.
    """

    name: ClassVar[str] = "text-picture-delta"
    needs: ClassVar[tuple[type, ...]] = (Renders, Styled)

    strength: float = 1.0
    beta: float = BETA

    def prepared(self, backbone: Backbone) -> pathlib.Path:
        file = delta_file(backbone.fingerprint)
        if file is None:
            raise UserError(
                f"No mapper of {backbone.id} was trained: `unified edit --find {METHOD}` does, or choose another"
                " scheme: 'text-edit' or 'text-global'."
            )
        return file

    def moved(self, backbone: Backbone, concepts: Sequence[Concept], file: pathlib.Path, words: Words) -> list[Concept]:
        wish = Wish(words.target, words.neutral, self.beta)
        path = path_of(backbone, load_delta(file, backbone), words.scorer, wish)
        strength = float(words.step.norm()) * self.strength
        found = []
        for concept in concepts:
            if style_places(concept):
                with backbone.bound(concept) as view:
                    shift = path.shift(Here(view), strength)
                concept = apply_shift(backbone, concept, shift)
            found.append(concept)
        return found


text_methods.register(METHOD, DeltaEdits())
schemes.register(TextPictureDelta.name, TextPictureDelta())
