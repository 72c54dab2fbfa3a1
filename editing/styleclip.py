"""StyleCLIP's latent optimisation: styles whose pictures fit a text (Patashnik et al. 2021, section 4).

The paper draws the picture towards the text itself. A small CLIP keeps pictures and texts far apart, so that every
text, also one that asks for nothing, changes everything. Here the picture is drawn to where it is itself, moved by
the step from a neutral text to the prompt: D(G(w), e0 + reach * step) in place of D(G(w), t) in equation 1. A prompt
that asks for nothing then has its optimum at the start. `Aim(absolute=True)` is the equation as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.rendering import render_rows
from editing.scorers import Embedder, TextScorer, embedded_clip, embedded_identity
from editing.styles import gan_of, own_styles, style_places, with_samples, with_styles
from editing.wording import asked
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Terms:
    """What the optimisation minimises, for each picture.

    1 - cos(image, wanted) + l2 mean over layers of |w - w0|^2 / deviation^2 + identity (1 - cos(who, who0)),
    deviation that of the generator's w. scorer: of picture and text; embedder: of who is shown, or None to
    leave that term out.
    """

    scorer: TextScorer
    embedder: Embedder | None = None
    l2: float = 0.05
    identity: float = 0.2


@dataclass(frozen=True)
class Aim:
    """Where pictures shall be in the scorer's space.

    reach: length of the step from where they are, among unit vectors. absolute: at the text itself, as in the paper.
    """

    reach: float = 0.8
    absolute: bool = False

    def wanted(self, now: Tensor, scorer: TextScorer, prompt: str, neutral: str) -> Tensor:
        """Unit features [N, D] for pictures that have the features `now` [N, D]."""
        if self.absolute:
            return scorer.text_features([prompt])[0].expand_as(now)
        return functional.normalize(now + self.reach * asked(scorer, prompt, neutral), dim=1)


@dataclass(frozen=True)
class Descent:
    """How it is minimised: Adam, learning rate ramped up over 5 % and down over 25 % of the steps.

    lr: per step, in standard deviations of one coordinate of w. per_layer: each layer's w moves by itself
    (W+, as in the paper); False: one shift for all layers, which leaves less room for pictures that only the
    scorer takes for what the text says. batch: pictures at a time.
    """

    steps: int = 80
    lr: float = 0.1
    per_layer: bool = False
    batch: int = 8


def fit_text(
    view: View,
    rows: Sequence[int],
    wanted: Callable[[Tensor], Tensor],
    terms: Terms,
    descent: Descent,
    *,
    progress: Progress,
    label: str = "",
) -> Tensor:
    """The styles [len(rows), number, width] that minimise `terms` near those of the view.

    rows: pictures of the view's style code, modulo how many it holds. wanted: unit features [len(rows), D] that the
    pictures shall have, from those they have.
    """
    gan = gan_of(view.backbone)
    start = own_styles(view).rows(rows).detach().clone()
    _, deviation = gan.style_statistics()
    with torch.no_grad():
        image = render_rows(view, rows, start).clamp(0, 1)
        now = terms.scorer.image_features(image)
        goal = wanted(now)
        # A picture that is where it shall be has gradients of rounding errors alone, and Adam takes full steps by them.
        asks = (goal - now).norm(dim=1) > 1e-4
        before = None if terms.embedder is None else terms.embedder.embed(image)
    layers = start.shape[1] if descent.per_layer else 1
    shift = torch.zeros_like(start[:, :layers]).requires_grad_()
    optimiser = torch.optim.Adam([shift])
    # Adam's steps are about lr in every coordinate.
    rate = descent.lr * deviation / math.sqrt(start.shape[2])
    progress.start(label, descent.steps)
    for step in range(descent.steps):
        image = render_rows(view, rows, start + shift)
        loss = 1 - (terms.scorer.image_features(image) * goal).sum(1)
        loss = loss + terms.l2 * shift.square().sum(2).mean(1) / deviation**2
        if terms.embedder is not None and before is not None:
            loss = loss + terms.identity * (1 - (terms.embedder.embed(image) * before).sum(1))
        if not bool(torch.isfinite(loss).all()):
            raise UserError("The text-driven edit met a loss that is not finite: lower its learning rate.")
        optimiser.param_groups[0]["lr"] = rate * ramp((step + 1) / descent.steps)
        # The sum: each picture has its own gradient, however many share the batch.
        (shift.grad,) = torch.autograd.grad((loss * asks).sum(), [shift])
        optimiser.step()
        progress.advance(step + 1, loss=float(loss.detach().mean()))
    progress.finish()
    return start + shift.detach()


def ramp(progress: float) -> float:
    """Learning-rate factor: linear up over the first 5 %, half a cosine down over the last 25 %."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - progress) / 0.25))
    return min(1.0, progress / 0.05) * down


def plain_text(prompt: str, concepts: Sequence[Concept], *, category: str = "") -> str:
    """The prompt with each concept's name replaced by words: "<me> smiling" -> "a person smiling".

    A bare class word gets an article unless one stands before the name. category: of concepts that have neither.
    """
    for concept in concepts:
        words = concept.carrier or concept.category or category
        if words and words == (concept.category or category):
            article = "an " if words[0].lower() in "aeiou" else "a "
            name = re.escape(concept.name)
            prompt = re.sub(rf"(?<!\ba )(?<!\ban )(?<!\bthe ){name}", article + words, prompt)
        prompt = prompt.replace(concept.name, words)
    return " ".join(prompt.split())


def category_of(backbone: Backbone, concepts: Sequence[Concept]) -> str:
    """What is shown, as a neutral text: the first concept's category, else what the backbone draws, else nothing."""
    category = next((c.category for c in concepts if c.category), backbone.category)
    return f"{'an' if category[:1].lower() in 'aeiou' else 'a'} {category}" if category else ""


@dataclass(frozen=True)
class TextOptimisation(EditScheme):
    """Move the concept's styles until the picture fits `target.prompt`; tuned weights and noise maps stay.

    Starts from the concept's picture i modulo how many it holds, or from random samples without a concept
    that has styles. clip, identity: give the scorers when they are needed (None: no identity term).
    """

    name: ClassVar[str] = "text-optimisation"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    descent: Descent = field(default_factory=Descent)
    aim: Aim = field(default_factory=Aim)
    l2: float = Terms.l2
    identity_weight: float = Terms.identity
    clip: Callable[[], TextScorer] = embedded_clip
    identity: Callable[[], Embedder | None] = embedded_identity

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        if torch.is_inference_mode_enabled():
            raise UserError("Text-driven editing needs gradients: call it outside of torch.inference_mode().")
        bound = with_samples(backbone, concepts, target, rng=rng)
        return self.edit(backbone, bound, target.prompt, n=target.n, progress=progress) if target.prompt else bound

    def edit(
        self,
        backbone: Backbone,
        concepts: Sequence[Concept],
        prompt: str,
        *,
        n: int | None,
        progress: Progress,
    ) -> list[Concept]:
        """The concepts with the styles of the one that has any replaced by n that fit the prompt."""
        terms = Terms(self.clip(), self.identity(), self.l2, self.identity_weight)
        text = plain_text(prompt, concepts, category=backbone.category)
        neutral = category_of(backbone, concepts)

        def wanted(now: Tensor) -> Tensor:
            return self.aim.wanted(now, terms.scorer, text, neutral)

        with torch.enable_grad(), backbone.bound(*concepts) as view:
            count = n or own_styles(view).code.pictures or 1
            parts = [range(count)[i : i + self.descent.batch] for i in range(0, count, self.descent.batch)]
            styles = torch.cat(
                [
                    fit_text(view, part, wanted, terms, self.descent, progress=progress, label=f"edit: {prompt}")
                    for part in parts
                ]
            )
        mean, _ = gan_of(backbone).style_statistics()
        return [with_styles(c, styles, mean) if style_places(c) else c for c in concepts]


schemes.register(TextOptimisation.name, TextOptimisation())
