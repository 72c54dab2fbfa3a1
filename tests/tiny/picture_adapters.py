"""Random IP-Adapters of the official layout for the tiny UNets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from backbones.diffusion.ip_adapter import ENCODER, FILE
from backbones.diffusion.train.ip_adapter_file import official_names


def vision() -> CLIPVisionModelWithProjection:
    """16 wide, patches of 8 in 32 pixels, embeddings of width 12."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        projection_dim=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config).eval()


def write_adapter(folder: Path, unet: Any, *, plus: bool, seed: int = 0) -> Path:
    """An adapter file with its image encoder beside it; returns the file."""
    torch.manual_seed(seed)
    width = unet.config.cross_attention_dim
    encoder = vision()
    encoder.save_pretrained(folder / ENCODER)
    if plus:
        module = IPAdapterPlusImageProjection(embed_dims=16, output_dims=width, hidden_dims=8, heads=1, num_queries=3)
        projection = official_names(module.state_dict())
    else:
        projection = {"proj.weight": torch.randn(4 * width, 12), "proj.bias": torch.randn(4 * width)}
        projection |= {"norm.weight": 1 + 0.1 * torch.randn(width), "norm.bias": torch.randn(width)}
    state = {f"image_proj.{name}": value.contiguous() for name, value in projection.items()}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            own = unet.get_submodule(name.removesuffix(".processor")).to_k.weight
            for part in ("k", "v"):
                state[f"ip_adapter.{number}.to_{part}_ip.weight"] = torch.randn(own.shape)
    save_file(state, folder / FILE)
    return folder / FILE
