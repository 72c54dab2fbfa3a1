"""A tiny random Emu3: 16x16 pictures, 4x4 visual tokens, a few words."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import Emu3VQVAE

from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.layout import AVATARS_LAYOUT, PromptLayout
from backbones.autoregressive.train.emu3 import Emu3Settings, new_model
from backbones.autoregressive.train.tokenizer import TokenizerSettings, vq_config

TINY_TOKENIZER = TokenizerSettings(codes=16, dimension=4, multiplier=(1, 1, 1), blocks=1)
TINY_EMU3 = Emu3Settings(hidden=32, layers=2, heads=2, intermediate=48, steps=4, batch=4, warmup=2)
TINY_LAYOUT = replace(AVATARS_LAYOUT, height=4, width=4)
#: The layout of the released checkpoints (rows closed, sizes written) at this size.
TINY_RELEASED_LAYOUT = PromptLayout(height=4, width=4)


def tiny_vq(seed: int = 0) -> Emu3VQVAE:
    torch.manual_seed(seed)
    vq = Emu3VQVAE(vq_config(TINY_TOKENIZER)).eval()
    # As initialised, the code vectors are far larger than the latents, which then all fall on one code.
    with torch.no_grad():
        images = torch.rand(8, 1, 3, 16, 16)
        latents = vq.quant_conv(vq.encoder(images).permute(0, 2, 1, 3, 4))
        vectors = latents.permute(0, 2, 3, 4, 1).reshape(-1, latents.shape[1])
        vq.quantize.embedding.weight.copy_(vectors[torch.randperm(len(vectors))[:16]])
    return vq


def tiny_emu3(*, layout: PromptLayout = TINY_LAYOUT, seed: int = 0) -> Emu3Parts:
    """Random weights in fp32, frozen; larger than usual, so that the logits differ clearly between tokens."""
    parts = new_model(TINY_EMU3, tiny_vq(seed), layout)
    torch.manual_seed(seed)
    for name, value in parts.model.model.text_model.named_parameters():
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=0.5 if "embed" in name else 0.25)
    parts.model.eval().requires_grad_(False)
    return parts
