"""The losses of StyleGAN2 training, as functions of network outputs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss -log sigmoid(D(G(z))), per picture (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))), per pair."""
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def r1_penalty(real_logits: Tensor, images: Tensor) -> Tensor:
    """|grad_x D(x)|^2 per picture (Mescheder et al. 2018, equation 9, without gamma / 2)."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """|J_w^T y| per picture, y ~ N(0, I) / sqrt(pixels) (Karras et al. 2020, section 3.2).

    ws [N, num_ws, w_dim]: squared over w_dim, averaged over layers, as in the official code.
    """
    device = images.device if generator is None else generator.device
    noise = torch.randn(images.shape, generator=generator, device=device).to(images)
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
