"""Losses that shift a generator to the domain of one picture. Pure functions on features, no network.

Zhu et al. 2022, "Mind the Gap: Domain Gap Control for Single Shot Domain Adaptation for Generative Adversarial
Networks", section 3; Zhang et al. 2022, "Towards Diverse and Faithful One-shot Adaption of Generative Adversarial
Networks" (DiFa), section 3. Features are unit vectors of an image encoder, [N, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from editing.latent.nada import directional_loss


def across_loss(new: Tensor, old: Tensor, picture: Tensor, reference: Tensor) -> Tensor:
    """How pictures change from domain to domain shall be how the reference does, [N].

    new, old: of one w in the trained and in the frozen generator. picture: [D], of the target; reference: [D], of
    what stands for it in the old domain.
    """
    return directional_loss(new, old, picture - reference)


def within_loss(new: Tensor, old: Tensor, picture: Tensor, reference: Tensor) -> Tensor:
    """How pictures differ from the target within the new domain shall be how they did in the old one, [N].

    1 - cos(new - picture, old - reference).
    """
    return 1 - functional.cosine_similarity(new - picture, old - reference, dim=1)


def local_style_loss(tokens: Tensor, style: Tensor) -> Tensor:
    """How far tokens [N, T, D] of pictures are from those [S, D] of the target, [N].

    The relaxed earth mover's distance: of each token to the nearest one of the other picture, by 1 - cosine, the mean
    over one picture's tokens or the other's, whichever is larger.
    """
    cost = 1 - functional.normalize(tokens, dim=2) @ functional.normalize(style, dim=1).T
    return torch.maximum(cost.amin(2).mean(1), cost.amin(1).mean(1))


def least_changed(change: Tensor, share: float) -> Tensor:
    """1 for the `share` of the channels [K] that change least between domains, else 0."""
    count = int(share * change.numel())
    chosen = torch.zeros_like(change)
    chosen[change.abs().argsort(stable=True)[:count]] = 1
    return chosen


def consistency_loss(new: Tensor, old: Tensor, change: Tensor, share: float) -> Tensor:
    """Mean |new - old| over codes [N, K], of the channels alone that the domains have in common (selective).

    change: [K], by which the mean code of the new domain differs from the old one's.
    """
    return (least_changed(change, share) * (new - old)).abs().mean()
