"""Edits by text in style channels: StyleCLIP's global directions (Patashnik et al. 2021, section 6)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from editing.by_text import text_methods
from editing.directions import Direction
from editing.find.styleclip import METHOD, Effects, effects_file, load_effects
from editing.latent.styleclip import global_direction, text_direction
from editing.scorers import TextScorer, embedded_clip
from editing.styles import channel_sizes
from unified.contract.abilities import Styled
from unified.contract.backbone import Backbone
from unified.errors import UserError

BETA = 0.1  # the authors' default; 0.1 to 0.2 keep from most to few channels
_BETA = re.compile(r"^(?P<texts>.*?)(?:~\s*(?P<beta>\d*\.?\d+))?$", re.DOTALL)


@dataclass(frozen=True)
class Wish:
    """What the words of an edit ask for: "NEUTRAL -> TARGET ~BETA", of which TARGET alone must be there."""

    target: str
    neutral: str = ""
    beta: float = BETA

    @staticmethod
    def read(words: str, *, method: str = METHOD, beta: float = BETA) -> Wish:
        """method: that they are for. beta: where none is given. Raises UserError if there is no target."""
        found = _BETA.match(words.strip())
        assert found is not None
        neutral, arrow, target = found["texts"].rpartition("->")
        target, neutral = target.strip(), neutral.strip()
        if not target or (arrow and not neutral):
            raise UserError(
                f"'{method}:{words}' says too little: write '{method}:TARGET' or '{method}:NEUTRAL -> TARGET', such as"
                f" '{method}:a person -> a person with glasses', and '~0.15' behind it for another beta."
            )
        return Wish(target, neutral, beta if found["beta"] is None else float(found["beta"]))


def direction_of(backbone: Backbone, effects: Effects, scorer: TextScorer, wish: Wish) -> Direction:
    """The direction of style channels for a text; strength is the paper's alpha (3 to 5 show).

    Strength 1 moves the most relevant channel by one deviation. Without a neutral text it is the category of
    what the backbone draws. Raises UserError if there is neither, or no channel does what the text says.
    """
    neutral = wish.neutral or category_text(backbone, METHOD)
    features = scorer.text_features([wish.target, neutral])
    text = text_direction(features[0], features[1]).to(effects.effects.dtype)
    step = (effects.deviation * global_direction(effects.effects, text, beta=wish.beta)).to(backbone.dtype)
    return Direction(functional.normalize(step, dim=0), float(step.norm()), channels=channel_sizes(backbone))


def category_text(backbone: Backbone, method: str) -> str:
    """What the backbone draws, as a text. Raises UserError if it does not say; `method` is what was asked."""
    if not backbone.category:
        raise UserError(
            f"{backbone.id} does not say what it draws: write the neutral text too, '{method}:NEUTRAL -> TARGET'."
        )
    return f"{'an' if backbone.category[0].lower() in 'aeiou' else 'a'} {backbone.category}"


@dataclass(frozen=True)
class GlobalDirections:
    """Makes directions from words where `unified edit --find styleclip` prepared the backbone.

    strength: as `TextMethod`'s; the paper's figures use 3 to 5 (section 6).
    """

    clip: Callable[[], TextScorer] = embedded_clip
    strength: float = 4.0

    def maker(self, backbone: Backbone) -> Callable[[str], Direction] | None:
        path = effects_file(backbone.fingerprint) if isinstance(backbone, Styled) else None
        if path is None:
            return None

        def make(words: str) -> Direction:
            with torch.no_grad():
                return direction_of(backbone, load_effects(path, backbone), self.clip(), Wish.read(words))

        return make

    def about(self, backbone: Backbone) -> str:
        path = effects_file(backbone.fingerprint)
        assert path is not None
        effects = load_effects(path, backbone)
        example = f"any text, such as {METHOD}:a person with glasses"
        return f"{example}; by {METHOD}, judged by {effects.scorer} on {effects.data}"


text_methods.register(METHOD, GlobalDirections())
