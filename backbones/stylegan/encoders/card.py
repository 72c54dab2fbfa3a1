"""What is written beside a trained encoder: its scores on held-out people, and pictures before and after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.inverter import Inverter
from backbones.stylegan.encoders.losses import Distance, LossWeights
from backbones.stylegan.encoders.plan import Plan
from unified.zoo.training import BuildSettings

SHOWN = 12  # pictures of the sheet


@torch.no_grad()
def redrawn(inverter: Inverter, images: Tensor, draw: Drawer, *, batch: int = 16) -> Tensor:
    """What the encoder makes of pictures [N,3,H,W] in 0..1, after its last round, in 0..1."""
    random = torch.Generator().manual_seed(0)
    parts = []
    for part in images.split(batch):
        *_, last = inverter.eval().drawn(inverter, inverter.prepared(part), draw, random)
        parts.append((last.picture / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


@dataclass(frozen=True)
class Scores:
    """Means over pictures: squared error (0..1), peak signal-to-noise ratio in dB, LPIPS-Alex, cosine of who it is."""

    squared: float
    psnr: float
    lpips: float
    identity: float

    @staticmethod
    @torch.no_grad()
    def of(drawn: Tensor, true: Tensor, perceptual: Distance, identity: Distance) -> Scores:
        squared = (drawn - true).square().flatten(1).mean(1)
        return Scores(
            squared=squared.mean().item(),
            psnr=(-10 * squared.clamp(min=1e-10).log10()).mean().item(),
            lpips=perceptual(drawn, true).mean().item(),
            identity=1 - identity(drawn, true).mean().item(),
        )


def card(
    plan: Plan,
    inverter: Inverter,
    scores: Scores,
    *,
    summary: str,
    steps: int,
    seconds: float,
    settings: BuildSettings,
    pictures: int,
) -> str:
    size = sum(p.numel() for p in inverter.parameters())
    return f"""# avatars/encoder-{plan.name}

{summary}. For avatars/stylegan2 with the weights {inverter.generator}; {size:,} parameters, stored as a byte each.

Data: avatars, training split, {pictures:,} pictures, no augmentation.
Training: {steps:,} steps of {plan.batch} pictures, {seconds / 60:.0f} minutes, seed {settings.seed}; Adam \
{plan.learning_rate:g} with warm-up and cosine decay, averaged weights; loss: {_losses(plan.weights)}.
Made by: `unified zoo build avatars/encoder-{plan.name} --steps {steps} --batch {plan.batch}`

People of the validation split, none of whom is in the training data:

| squared error | PSNR | LPIPS-Alex | identity |
|---|---|---|---|
| {scores.squared:.4f} | {scores.psnr:.2f} dB | {scores.lpips:.4f} | {scores.identity:.3f} |

![samples](samples.png) Above: true pictures. Below: what the encoder makes of them.
"""


def _losses(weights: LossWeights) -> str:
    names = {
        "squared": "squared pixels",
        "perceptual": "LPIPS-Alex",
        "identity": "identity",
        "norm": "distance from the mean w",
        "offset": "offsets from the first style",
        "judged": "judge of style vectors",
    }
    return ", ".join(f"{getattr(weights, key):g} {name}" for key, name in names.items() if getattr(weights, key))
