"""One tiny random backbone of every family, and what fits it, for tests of the laws that hold for all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch

from backbones.autoregressive.emu3 import Emu3
from tests.tiny import autoregressive, diffusion, gan, multimodal, var
from unified.contract.backbone import Backbone
from unified.contract.reference import Reference


def emu3(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Emu3:
    parts = autoregressive.tiny_emu3(seed=seed)
    parts.model.to(dtype)
    return Emu3("tiny/emu3", parts)


FAMILIES: Mapping[str, Callable[..., Backbone]] = {
    "stylegan": gan.stylegan,
    "stable-diffusion": diffusion.stable_diffusion,
    "stable-diffusion-xl": diffusion.stable_diffusion_xl,
    "stable-diffusion-3": diffusion.stable_diffusion_3,
    "flux": diffusion.flux,
    "emu3": emu3,
    "janus": multimodal.janus,
    "chameleon": multimodal.chameleon,
    "var": var.var,
}


@functools.cache
def tiny(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """The family's tiny backbone; shared between tests, which the laws allow: it is never written."""
    return FAMILIES[family](dtype=dtype)


def pictures(backbone: Backbone, count: int = 3, *, seed: int = 0) -> Reference:
    """Smooth random pictures that the backbone takes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    size = (backbone.resolution, backbone.resolution)
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return Reference(images.to(backbone.dtype), category="a", name="<me>")
