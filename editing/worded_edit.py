"""What schemes share that move a concept by what a prompt says beyond a neutral text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from editing.nada import neutral_text
from editing.scorers import TextScorer, embedded_clip
from editing.styleclip import plain_text
from editing.styles import with_samples
from editing.wording import asked
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import EditScheme
from unified.contract.target import Target


@dataclass(frozen=True, eq=False)
class Words:
    """target, neutral: texts. step: what the one asks for beyond the other, [D], see `asked`. scorer: who says so."""

    target: str
    neutral: str
    step: Tensor
    scorer: TextScorer


@dataclass(frozen=True)
class WordedEdit(EditScheme):
    """Needs a file that was prepared for the backbone; a prompt that only words the source otherwise moves nothing."""

    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    clip: Callable[[], TextScorer] = embedded_clip

    @abstractmethod
    def prepared(self, backbone: Backbone) -> Path:
        """The file that it reads. Raises UserError if there is none, naming what makes it."""

    @abstractmethod
    def moved(self, backbone: Backbone, concepts: Sequence[Concept], file: Path, words: Words) -> list[Concept]:
        """The concepts, edited with what is in the file. The words ask for something."""

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        bound = with_samples(backbone, concepts, target, rng=rng)
        if not target.prompt:
            return bound
        file = self.prepared(backbone)
        neutral = neutral_text(backbone, target.source, concepts)
        wanted = plain_text(target.prompt, concepts, category=backbone.category)
        scorer = self.clip()
        with torch.no_grad():
            step = asked(scorer, wanted, neutral)
            if not bool(step.any()):
                return bound
            return self.moved(backbone, bound, file, Words(wanted, neutral, step, scorer))
