"""Pictures to latents and back through a pipeline's autoencoder, wherever it computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unified.errors import UserError


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Pixels [N,3,H,W] in -1..1 to the most likely latents, not scaled."""
    # The hooks of what lies on another device do not see `encode` and `decode`, only calls.
    latents: Tensor = vae.encode(pixels.to(_device(vae))).latent_dist.mode()
    return latents.to(pixels.device)


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """The inverse of `encoded`, about."""
    pixels: Tensor = vae.decode(latents.to(_device(vae)), return_dict=False)[0]
    return pixels.to(latents.device)


def _device(vae: Any) -> Any:
    """Where it takes its input: weights that are brought part by part lie nowhere now, and inputs follow them."""
    device = next(vae.parameters()).device
    return "cpu" if device.type == "meta" else device


def check_size(images: Tensor, step: int) -> None:
    """Raise UserError for pictures whose sides are no multiples of `step`."""
    height, width = images.shape[-2:]
    if height % step or width % step:
        raise UserError(
            f"Pictures of {width}x{height} were given; their sides must be multiples of {step}: resize them to"
            f" {max(1, round(width / step)) * step}x{max(1, round(height / step)) * step}."
        )
