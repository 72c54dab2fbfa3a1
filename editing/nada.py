"""Shifting a GAN to another domain by text alone: StyleGAN-NADA (Gal et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.affine import style_matrices
from editing.domain_training import DOMAIN, Training, train_weights, weights_code
from editing.latent.nada import chosen_layers, directional_loss
from editing.latent.styleclip import text_direction
from editing.scorers import TextScorer, embedded_clip
from editing.styleclip import plain_text
from editing.styles import gan_of, sample_styles
from unified.contract.abilities import Renders, Styled, Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class DomainSettings:
    """As in the paper and its code.

    steps, batch, lr: of Adam(0, 0.99). layers: style vectors whose layers are trained at each step, chosen anew by
    how much w moves for the text (section 4.3); None: all. choice_steps, choice_lr: of that
    optimisation, as a number of deviations of one coordinate of w. skip: weights whose path matches stay (the paper
    freezes the affine layers, and with `layers` those to RGB).
    """

    steps: int = 300
    batch: int = 16
    lr: float = 0.002
    layers: int | None = None
    choice_steps: int = 1
    choice_batch: int = 8
    choice_lr: float = 0.1
    skip: str = r"affine|rgb|noise"
    truncation: float = 1.0


def weights_by_style(backbone: Backbone, skip: str) -> dict[str, int]:
    """Path of each weight that may be trained -> the style vector that modulates its layer; -1 if none does.

    Raises UserError if the backbone has no weights or style channels, or all of them are left out.
    """
    if not (isinstance(backbone, Tunable) and isinstance(backbone, Styled)):
        raise UserError(f"{backbone.id} cannot be shifted to another domain: it is no GAN with style channels.")
    _, paths = backbone.tunable()
    styles = {layer: place for place, found in enumerate(style_matrices(backbone)) for layer in found}
    chosen = [path for path in paths if not re.search(skip, path)]
    if not chosen:
        raise UserError(f"No weight of the generator is left to train: all match {skip!r}.")
    return {path: next((styles[layer] for layer in styles if f".{layer}." in f".{path}"), -1) for path in chosen}


@dataclass(frozen=True)
class _Shift:
    """The frozen generator, the scorer and the texts."""

    backbone: Backbone
    scorer: TextScorer
    source: str
    target: str
    settings: DomainSettings

    def layers_of_the_step(self, rng: Random) -> list[int]:
        """The style vectors whose layers are trained now: w of samples are moved towards the target text."""
        settings, gan = self.settings, gan_of(self.backbone)
        number, width = gan.style_shape()
        count = settings.layers
        if count is None or count >= number:
            return list(range(number))
        start = sample_styles(self.backbone, range(settings.choice_batch), truncation=settings.truncation, rng=rng)
        text = self.scorer.text_features([self.target])[0]
        moved = start.clone().requires_grad_()
        _, deviation = gan.style_statistics()
        optimiser = torch.optim.SGD([moved], lr=settings.choice_lr * deviation / width**0.5)
        with self.backbone.bound() as view:
            for _ in range(settings.choice_steps):
                loss = (1 - self.scorer.image_features(gan.render(view, moved).clamp(0, 1)) @ text).sum()
                (moved.grad,) = torch.autograd.grad(loss, [moved])
                optimiser.step()
        return chosen_layers(start, moved.detach(), count)

    def train(self, code: Code, styles: dict[str, int], *, rng: Random, progress: Progress) -> None:
        """Train the code's tensors in place of the holder."""
        settings, gan = self.settings, gan_of(self.backbone)
        features = self.scorer.text_features([self.target, self.source])
        text = text_direction(features[0], features[1])

        def loss(frozen: View, trained: View, w: Tensor, step: int) -> Tensor:
            with torch.no_grad():
                old = self.scorer.image_features(gan.render(frozen, w).clamp(0, 1))
            new = self.scorer.image_features(gan.render(trained, w).clamp(0, 1))
            return directional_loss(new, old, text).mean()

        def chosen(step: int) -> list[str]:
            layers = self.layers_of_the_step(rng.child("choice", step))
            return [path for path, style in styles.items() if style < 0 or style in layers]

        train_weights(
            self.backbone,
            code,
            loss,
            Training(settings.steps, settings.batch, settings.lr, settings.truncation),
            label=f"shifting to: {self.target}",
            rng=rng,
            progress=progress,
            chosen=chosen,
        )


def shift_domain(
    backbone: Backbone,
    *,
    source: str,
    target: str,
    scorer: TextScorer,
    settings: DomainSettings = DomainSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Concept:
    """A concept of tuned weights with which the generator draws `target` where it drew `source`.

    Its pictures change, in the space of the scorer, as the texts do (equation 3); mapping and affine layers stay,
    so that styles mean what they did, and concepts and edits go on working: bind both. The paper averages
    each text over a set of templates written for photographs; here each is taken as it stands.
    """
    styles = weights_by_style(backbone, settings.skip)
    code = weights_code(backbone, styles)
    shift = _Shift(backbone, scorer, source, target, settings)
    shift.train(code, styles, rng=rng or Random(0).child("domain"), progress=progress or Silent())
    return Concept(
        [code],
        name=DOMAIN,
        backbone=backbone.id,
        fingerprint=backbone.fingerprint,
        meta={"domain": {"source": source, "target": target, "steps": settings.steps, "layers": settings.layers}},
    )


@dataclass(frozen=True)
class ZeroShotDomain(EditScheme):
    """Shift the generator from `target.source` to `target.prompt` for all concepts, or random samples (StyleGAN-NADA).

    Without a source it is the category of what the backbone draws. Concepts with tuned weights of their own are
    refused when both are bound.
    """

    name: ClassVar[str] = "zero-shot-domain"
    needs: ClassVar[tuple[type, ...]] = (Renders, Tunable, Styled)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})

    settings: DomainSettings = DomainSettings()
    clip: Callable[[], TextScorer] = embedded_clip

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        if not target.prompt:
            return list(concepts)
        domain = shift_domain(
            backbone,
            source=neutral_text(backbone, target.source, concepts),
            target=plain_text(target.prompt, concepts),
            scorer=self.clip(),
            settings=self.settings,
            rng=rng.child("domain"),
            progress=progress,
        )
        return [*concepts, domain]


def neutral_text(backbone: Backbone, given: str, concepts: Sequence[Concept]) -> str:
    """What the pictures show before an edit by text: as given, else the category. UserError without either."""
    if given:
        return plain_text(given, concepts)
    category = next((c.category for c in concepts if c.category), backbone.category)
    if not category:
        raise UserError(
            f"{backbone.id} does not say what it draws: give the text of the pictures as they are (source)."
        )
    return f"{'an' if category[0].lower() in 'aeiou' else 'a'} {category}"


schemes.register(ZeroShotDomain.name, ZeroShotDomain())
