"""Shifting a GAN to the domain of one picture: Mind the Gap (Zhu et al. 2022) and DiFa (Zhang et al. 2022)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editing.domain_training import DOMAIN, Training, train_weights, weights_code
from editing.find.reader import StyleReader, train_reader
from editing.latent.nada import directional_loss
from editing.latent.picture_domain import across_loss, consistency_loss, local_style_loss, within_loss
from editing.nada import weights_by_style
from editing.rendering import render_shifted
from editing.scorers import Perception, PictureScorer, embedded_clip_tokens, embedded_perception
from editing.styles import gan_of, own_styles, sample_styles
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
class GapSettings:
    """As in Mind the Gap's paper and code. across, within, reference: weights of the directions between and within
    domains, and of the reference's features; perceptual, pixel: of its reconstruction. recipe, inversion_steps: how the
    picture is inverted in the old domain (the paper: II2S); None: the recipe's steps. skip: weights that stay.
    """

    steps: int = 600
    batch: int = 4
    lr: float = 0.002
    across: float = 1.0
    within: float = 0.5
    reference: float = 30.0
    perceptual: float = 10.0
    pixel: float = 10.0
    recipe: str = "improved-embedding"
    inversion_steps: int | None = None
    skip: str = r"affine|rgb|noise"


@dataclass(frozen=True)
class DiverseSettings:
    """As in DiFa's paper and code. whole, local, consistency: weights of the direction, of the tokens' style, and of
    what the domains have in common: the `share` of the channels of w whose mean changes least, over a `window` of
    batches; once that is full its weight grows from nothing. layer: of the scorer's tokens; None: after a quarter of
    its layers (the paper: 3 of 12). samples: whose mean feature stands for the old domain. reader_steps: of training
    what reads w from pictures. skip: weights that stay.
    """

    steps: int = 300
    batch: int = 4
    lr: float = 0.002
    whole: float = 1.0
    local: float = 1.0
    consistency: float = 6.0
    share: float = 0.6
    window: int = 50
    layer: int | None = None
    samples: int = 500
    reader_steps: int = 400
    skip: str = r"affine|rgb|noise"


def _checked(backbone: Backbone, picture: Tensor) -> Tensor:
    side = backbone.resolution
    if tuple(picture.shape) != (1, 3, side, side):
        raise UserError(
            f"The picture of the new domain has shape {tuple(picture.shape)}; one of [1, 3, {side}, {side}] in 0..1 is"
            " needed: give one picture."
        )
    return picture.to(backbone.dtype)


def _concept(backbone: Backbone, code: Code, method: str, steps: int) -> Concept:
    meta = {"domain": {"picture": True, "method": method, "steps": steps}}
    return Concept([code], name=DOMAIN, backbone=backbone.id, fingerprint=backbone.fingerprint, meta=meta)


def inverted_styles(backbone: Backbone, picture: Tensor, settings: GapSettings, *, progress: Progress) -> Tensor:
    """Styles [1, number, width] of the picture in the old domain, by a registered recipe."""
    concept = backbone.invert(picture, recipe=settings.recipe, steps=settings.inversion_steps, progress=progress)
    with torch.no_grad(), backbone.bound(concept) as view:
        return own_styles(view).read().detach()


def shift_to_picture(
    backbone: Backbone,
    picture: Tensor,
    scorer: PictureScorer,
    perception: Perception,
    *,
    styles: Tensor | None = None,
    settings: GapSettings = GapSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Concept:
    """A concept of tuned weights with which the generator draws in the domain of one picture (Mind the Gap).

    picture: [1,3,H,W] in 0..1. perception: distance of pictures, [N]. styles: [1, number, width] of the picture's like
    in the old domain; None: it is inverted. What is there at the picture is its reconstruction; elsewhere pictures
    change as the reference did to become the picture, and differ from it as they did before (section 3). The paper's
    optional transfer of colours (fine layers of the picture's own styles) is an edit of styles, and left out.
    Raises UserError for another shape, or a backbone whose weights cannot be trained.
    """
    picture, progress = _checked(backbone, picture), progress or Silent()
    code = weights_code(backbone, weights_by_style(backbone, settings.skip))
    own = inverted_styles(backbone, picture, settings, progress=progress) if styles is None else styles
    gan = gan_of(backbone)
    with torch.no_grad():
        wanted = scorer.image_features(picture)[0]
        reference = scorer.image_features(render_shifted(backbone, own))[0]

    def loss(frozen: View, trained: View, w: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            old = scorer.image_features(gan.render(frozen, w).clamp(0, 1))
        images = gan.render(trained, torch.cat([w, own.to(w.dtype)]))
        features = scorer.image_features(images.clamp(0, 1))
        new, rebuilt, again = features[:-1], images[-1:], features[-1]
        total = settings.across * across_loss(new, old, wanted, reference).mean()
        total = total + settings.within * within_loss(new, old, wanted, reference).mean()
        total = total + settings.reference * (1 - again @ wanted)
        total = total + settings.pixel * (rebuilt - picture).square().mean()
        return total + settings.perceptual * perception(rebuilt.clamp(0, 1), picture).mean()

    rng = rng or Random(0).child("domain")
    training = Training(settings.steps, settings.batch, settings.lr)
    train_weights(backbone, code, loss, training, label="shifting to the picture", rng=rng, progress=progress)
    return _concept(backbone, code, "mind-the-gap", settings.steps)


@torch.no_grad()
def mean_feature(backbone: Backbone, scorer: PictureScorer, count: int, *, rng: Random, batch: int = 50) -> Tensor:
    """Mean feature [D] of `count` random samples."""
    total = torch.zeros(())
    for start in range(0, count, batch):
        styles = sample_styles(backbone, range(start, min(start + batch, count)), truncation=1.0, rng=rng)
        total = total + scorer.image_features(render_shifted(backbone, styles)).sum(0)
    return total / count


def shift_to_picture_diversely(
    backbone: Backbone,
    picture: Tensor,
    scorer: PictureScorer,
    *,
    reader: StyleReader | None = None,
    settings: DiverseSettings = DiverseSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Concept:
    """A concept of tuned weights with which the generator draws in the domain of one picture (DiFa).

    Three losses: features move from the old domain's mean towards the picture's (global); tokens are near to the
    picture's (local style); what a reader of w sees in the picture of one w, before and after, agrees in the channels
    that the domains have in common (selective consistency). reader: pictures -> w; None: one is trained on samples,
    which tell their w, in the place of the paper's pSp or e4e. Raises UserError as `shift_to_picture` does.
    """
    picture, progress = _checked(backbone, picture), progress or Silent()
    rng = rng or Random(0).child("domain")
    code = weights_code(backbone, weights_by_style(backbone, settings.skip))
    reader = reader or train_reader(backbone, steps=settings.reader_steps, rng=rng.child("reader"), progress=progress)
    gan = gan_of(backbone)
    with torch.no_grad():
        direction = scorer.image_features(picture)[0]
        direction = direction - mean_feature(backbone, scorer, settings.samples, rng=rng.child("mean"))
        style = scorer.image_tokens(picture, layer=settings.layer)[0]
    changes: list[Tensor] = []  # of the mean codes, of the latest batches

    def loss(frozen: View, trained: View, w: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            before = gan.render(frozen, w).clamp(0, 1)
            old, code_before = scorer.image_features(before), reader(before)
        after = gan.render(trained, w).clamp(0, 1)
        total = settings.whole * directional_loss(scorer.image_features(after), old, direction).mean()
        tokens = scorer.image_tokens(after, layer=settings.layer)
        total = total + settings.local * local_style_loss(tokens, style).mean()
        code_after = reader(after)
        changes.append((code_after.detach() - code_before).mean(0))
        del changes[: -settings.window]
        grown = max(0.0, (step - settings.window) / max(settings.steps - settings.window, 1))
        common = consistency_loss(code_after, code_before, torch.stack(changes).mean(0), settings.share)
        return total + settings.consistency * grown * common

    training = Training(settings.steps, settings.batch, settings.lr)
    train_weights(backbone, code, loss, training, label="shifting to the picture", rng=rng, progress=progress)
    return _concept(backbone, code, "difa", settings.steps)


class _PictureScheme(EditScheme):
    """Shift the generator to the domain of the target's picture, for all concepts or random samples."""

    needs: ClassVar[tuple[type, ...]] = (Renders, Tunable, Styled)
    reads: ClassVar[frozenset[str]] = frozenset({"pictures"})
    wants: ClassVar[frozenset[str]] = frozenset({"pictures"})

    @abstractmethod
    def shifted(self, backbone: Backbone, picture: Tensor, *, rng: Random, progress: Progress) -> Concept:
        """The domain of `picture` [1,3,H,W] in 0..1 as a concept."""

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        if target.pictures is None:
            raise UserError(f"The scheme {self.name!r} needs a picture of the new domain: give one.")
        return [*concepts, self.shifted(backbone, target.pictures, rng=rng.child("domain"), progress=progress)]


@dataclass(frozen=True)
class PictureDomain(_PictureScheme):
    """Mind the Gap. Concepts with tuned weights of their own are refused when both are bound."""

    name: ClassVar[str] = "picture-domain"

    settings: GapSettings = GapSettings()
    clip: Callable[[], PictureScorer] = embedded_clip_tokens
    perception: Callable[[], Perception] = embedded_perception

    def shifted(self, backbone: Backbone, picture: Tensor, *, rng: Random, progress: Progress) -> Concept:
        return shift_to_picture(
            backbone, picture, self.clip(), self.perception(), settings=self.settings, rng=rng, progress=progress
        )


@dataclass(frozen=True)
class DiversePictureDomain(_PictureScheme):
    """DiFa. Concepts with tuned weights of their own are refused when both are bound."""

    name: ClassVar[str] = "picture-domain-diverse"

    settings: DiverseSettings = DiverseSettings()
    clip: Callable[[], PictureScorer] = embedded_clip_tokens

    def shifted(self, backbone: Backbone, picture: Tensor, *, rng: Random, progress: Progress) -> Concept:
        return shift_to_picture_diversely(
            backbone, picture, self.clip(), settings=self.settings, rng=rng, progress=progress
        )


schemes.register(PictureDomain.name, PictureDomain())
schemes.register(DiversePictureDomain.name, DiversePictureDomain())
