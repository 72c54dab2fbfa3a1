"""Random weights at the proportions of Stable Diffusion 1.5, for measuring what a step costs there."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.tiny.diffusion import clip_tokenizer

#: By what the channels are divided, and the side of the pictures.
SIZES = {"sd15": (1, 512), "sd15-quarter": (4, 256)}


def save_sd15(folder: Path, share: int, picture: int) -> Path:
    """SD 1.5 with its channels divided by `share`; a quarter of them at half its side has 1/64 of its operations.

    Its layers, their order and number are SD 1.5's, so that what the autoencoder, the text encoder and the UNet
    cost compares as it does there. The vocabulary is smaller; it costs nothing.
    """
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768 // share,
        intermediate_size=3072 // share,
        num_hidden_layers=12,
        num_attention_heads=12 // share,
        max_position_embeddings=77,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=tuple(n // share for n in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=picture,
    )
    unet = UNet2DConditionModel(
        sample_size=picture // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(n // share for n in (320, 640, 1280, 1280)),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768 // share,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
