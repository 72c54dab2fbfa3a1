"""A tiny random next-scale model: 16x16 pictures, token maps of sides 1, 2 and 4."""

from __future__ import annotations

import torch

from backbones.autoregressive.layout import AVATARS_LAYOUT
from backbones.autoregressive.next_scale import NextScale, NextScaleSettings
from backbones.autoregressive.scales import MultiScaleTokenizer, ScaleSettings
from backbones.autoregressive.text_tokenizer import build_text_tokenizer
from backbones.autoregressive.var import Var
from backbones.autoregressive.var_parts import VarParts
from unified.avatars import captions

TINY_SCALES = ScaleSettings(sides=(1, 2, 4), codes=16, dimension=4, channels=(16, 16, 16))


def tiny_tokenizer(*, seed: int = 0) -> MultiScaleTokenizer:
    torch.manual_seed(seed)
    tokenizer = MultiScaleTokenizer(TINY_SCALES).eval()
    with torch.no_grad():  # code vectors of the latents' size, so that pictures differ in their codes
        latents = tokenizer.latents(torch.rand(8, 3, 16, 16))
        tokenizer.codebook.mul_(latents.std())
    return tokenizer


def tiny_parts(*, seed: int = 0) -> VarParts:
    text = build_text_tokenizer([*captions.vocabulary(), ",", "."], codes=0, layout=AVATARS_LAYOUT)
    tokenizer = tiny_tokenizer(seed=seed)
    settings = NextScaleSettings(
        sides=TINY_SCALES.sides, codes=16, dimension=4, words=len(text), width=32, depth=2, heads=2, text_depth=1
    )
    torch.manual_seed(seed)
    model = NextScale(settings).eval()
    for name, value in model.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.5 if "embedding" in name else 0.25)
    return VarParts(model, tokenizer, text)


def var(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Var:
    parts = tiny_parts(seed=seed)
    parts.model.to(dtype)
    parts.tokenizer.to(dtype)
    return Var("tiny/var", parts)
