"""StyleCLIP's latent optimisation: styles that fit a text (Patashnik et al. 2021, section 4)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from editing.rendering import render_rows
from editing.scorers import Embedder, TextScorer, embedded_clip, embedded_identity
from editing.styles import gan_of, own_styles, style_places, with_samples, with_styles
from unified.contract.backbone import Backbone, Renders
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

    1 - cos(image, text) + l2 mean over layers of |w - w0|^2 / deviation^2 + identity (1 - cos(who, who0)),
    deviation that of the generator's w. scorer: of picture and text; embedder: of who is shown, or None to
    leave that term out.
    """

    scorer: TextScorer
    embedder: Embedder | None = None
    l2: float = 0.5
    identity: float = 0.2


@dataclass(frozen=True)
class Descent:
    """How it is minimised: Adam, learning rate ramped up over 5 % and down over 25 % of the steps.

    lr: per step, in standard deviations of one coordinate of w. per_layer: each layer's w moves by itself
    (W+); False: one shift for all layers. batch: pictures at a time.
    """

    steps: int = 80
    lr: float = 0.1
    per_layer: bool = True
    batch: int = 8


def fit_text(
    view: View,
    rows: Sequence[int],
    text: Tensor,
    terms: Terms,
    descent: Descent,
    *,
    progress: Progress,
    label: str = "",
) -> Tensor:
    """The styles [len(rows), number, width] that minimise `terms` near those of the view.

    rows: pictures of the view's style code, modulo how many it holds. text: unit features [D].
    """
    gan = gan_of(view.backbone)
    start = own_styles(view).rows(rows).detach().clone()
    _, deviation = gan.style_statistics()
    before = None
    if terms.embedder is not None:
        with torch.no_grad():
            before = terms.embedder.embed(render_rows(view, rows, start).clamp(0, 1))
    layers = start.shape[1] if descent.per_layer else 1
    shift = torch.zeros_like(start[:, :layers]).requires_grad_()
    optimiser = torch.optim.Adam([shift])
    # Adam's steps are about lr in every coordinate.
    rate = descent.lr * deviation / math.sqrt(start.shape[2])
    progress.start(label, descent.steps)
    for step in range(descent.steps):
        image = render_rows(view, rows, start + shift)
        loss = 1 - terms.scorer.image_features(image) @ text
        loss = loss + terms.l2 * shift.square().sum(2).mean(1) / deviation**2
        if terms.embedder is not None and before is not None:
            loss = loss + terms.identity * (1 - (terms.embedder.embed(image) * before).sum(1))
        if not bool(torch.isfinite(loss).all()):
            raise UserError("The text-driven edit met a loss that is not finite: lower its learning rate.")
        optimiser.param_groups[0]["lr"] = rate * ramp((step + 1) / descent.steps)
        # The sum: each picture has its own gradient, however many share the batch.
        (shift.grad,) = torch.autograd.grad(loss.sum(), [shift])
        optimiser.step()
        progress.advance(step + 1, loss=float(loss.detach().mean()))
    progress.finish()
    return start + shift.detach()


def ramp(progress: float) -> float:
    """Learning-rate factor: linear up over the first 5 %, half a cosine down over the last 25 %."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - progress) / 0.25))
    return min(1.0, progress / 0.05) * down


def plain_text(prompt: str, concepts: Sequence[Concept]) -> str:
    """The prompt with each concept's name replaced by words: "<me> smiling" -> "a person smiling".

    A bare class word gets an article unless one stands before the name.
    """
    for concept in concepts:
        words = concept.carrier or concept.category
        if words and words == concept.category:
            article = "an " if words[0].lower() in "aeiou" else "a "
            name = re.escape(concept.name)
            prompt = re.sub(rf"(?<!\ba )(?<!\ban )(?<!\bthe ){name}", article + words, prompt)
        prompt = prompt.replace(concept.name, words)
    return " ".join(prompt.split())


@dataclass(frozen=True)
class TextEdit(EditScheme):
    """Move the concept's styles until the picture fits `target.prompt`; tuned weights and noise maps stay.

    Starts from the concept's picture i modulo how many it holds, or from random samples without a concept
    that has styles. clip, identity: give the scorers when they are needed (None: no identity term).
    """

    name: ClassVar[str] = "text-edit"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    descent: Descent = field(default_factory=Descent)
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
        text = terms.scorer.text_features([plain_text(prompt, concepts)])[0]
        with torch.enable_grad(), backbone.bound(*concepts) as view:
            count = n or own_styles(view).code.pictures or 1
            parts = [range(count)[i : i + self.descent.batch] for i in range(0, count, self.descent.batch)]
            styles = torch.cat(
                [
                    fit_text(view, part, text, terms, self.descent, progress=progress, label=f"edit: {prompt}")
                    for part in parts
                ]
            )
        mean, _ = gan_of(backbone).style_statistics()
        return [with_styles(c, styles, mean) if style_places(c) else c for c in concepts]


schemes.register(TextEdit.name, TextEdit())
