"""How exactly an inversion gives its pictures back."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.contract.abilities import Denoises
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View


def reconstruction_error(view: View, reference: Reference) -> dict[str, list[float]]:
    """Root mean square error of what `view` samples without a prompt, for each picture of the reference.

    "latents": in units of the latents. "pixels": in 0..1. "autoencoder": the part of "pixels" that the
    autoencoder makes by itself, with the latents of the picture.
    """
    backbone = view.backbone
    assert isinstance(backbone, Denoises)
    with torch.no_grad():
        latents = backbone.encode(view, reference.images)
        found = backbone.sample_latents(view, Target(n=len(reference)), rng=Random(0))
        decoded, plain = (backbone.decode(view, x).clamp(0, 1) for x in (found, latents))
    return {
        "latents": _each(found - latents),
        "pixels": _each(decoded - reference.images),
        "autoencoder": _each(plain - reference.images),
    }


def _each(difference: Tensor) -> list[float]:
    return [float(value) for value in difference.double().square().flatten(1).mean(1).sqrt()]
