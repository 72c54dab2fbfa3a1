"""Random diffusers pipelines of four families, small enough for unit tests and built without files."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from backbones.diffusion.flux import Flux
from backbones.diffusion.stable_diffusion import StableDiffusion
from backbones.diffusion.stable_diffusion_3 import StableDiffusion3
from backbones.diffusion.stable_diffusion_xl import StableDiffusionXL
from backbones.diffusion.train.tokenizer import byte_tokenizer

FLUX_SIDE = 8


def clip_tokenizer() -> CLIPTokenizer:
    """514 tokens: bytes, bytes that end a word, start and end; 77 positions."""
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 77
    return tokenizer


def t5_tokenizer(*, max_length: int = 48) -> T5Tokenizer:
    """98 tokens: one per printable ASCII character and four special ones."""
    characters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(character, -3.0) for character in characters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


def stable_diffusion_pipeline(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, prediction: str = "epsilon"
) -> StableDiffusionPipeline:
    """SD 1.5, 35 thousand parameters, 64 px, latents 4x32x32."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder((4, 8)),
        text_encoder=CLIPTextModel(_clip_config(tokenizer, width=8, heads=2)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_ddim(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _frozen(pipeline, dtype)


def stable_diffusion_xl_pipeline(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, prediction: str = "epsilon"
) -> StableDiffusionXLPipeline:
    """SDXL, two text encoders and size conditioning, 64 px, latents 4x32x32."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(2, 4),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=1,
    )
    config = _clip_config(tokenizer, width=32, heads=4)
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder((4, 8)),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=_ddim(prediction),
        add_watermarker=False,
    )
    return _frozen(pipeline, dtype)


def stable_diffusion_3_pipeline(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, later: bool = False
) -> StableDiffusion3Pipeline:
    """SD 3, a flow with three text encoders, 8 px, latents 4x8x8.

    later: as SD 3.5 medium, with normalised queries and keys and attention over the picture alone in the first block.
    """
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    config = _clip_config(tokenizer, width=32, heads=4)
    transformer = SD3Transformer2DModel(
        sample_size=FLUX_SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        dual_attention_layers=(0,) if later else (),
        qk_norm="rms_norm" if later else None,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder((4,), shift=0.0609, scale=1.5035, quantise=False),
        text_encoder=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(width=64),
        tokenizer_3=t5_tokenizer(),
    )
    return _frozen(pipeline, dtype)


def flux_pipeline(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> FluxPipeline:
    """FLUX, one double and one single block, 8 px, latents 1x8x8 packed into 16 tokens."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_autoencoder((4,), latent=1, shift=0.0609, scale=1.5035, quantise=False, side=FLUX_SIDE),
        text_encoder=CLIPTextModel(_clip_config(tokenizer, width=32, heads=4)),
        tokenizer=tokenizer,
        text_encoder_2=_t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.default_sample_size = FLUX_SIDE
    return _frozen(pipeline, dtype)


def stable_diffusion(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """The tiny SD 1.5 as a backbone."""
    return StableDiffusion("tiny/stable-diffusion", stable_diffusion_pipeline(seed=seed, dtype=dtype))


def stable_diffusion_xl(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusionXL:
    """The tiny SDXL as a backbone."""
    return StableDiffusionXL("tiny/stable-diffusion-xl", stable_diffusion_xl_pipeline(seed=seed, dtype=dtype))


def stable_diffusion_3(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusion3:
    """The tiny SD 3 as a backbone."""
    return StableDiffusion3("tiny/stable-diffusion-3", stable_diffusion_3_pipeline(seed=seed, dtype=dtype))


def flux(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Flux:
    """The tiny FLUX as a backbone."""
    return Flux("tiny/flux", flux_pipeline(seed=seed, dtype=dtype))


def _clip_config(tokenizer: CLIPTokenizer, *, width: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _t5(*, width: int = 32) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=98, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0)
    )


def _autoencoder(
    channels: tuple[int, ...],
    *,
    latent: int = 4,
    shift: float | None = None,
    scale: float = 0.18215,
    quantise: bool = True,
    side: int = 64,
) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=side,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=latent,
        norm_num_groups=1,
        shift_factor=shift,
        scaling_factor=scale,
        use_quant_conv=quantise,
        use_post_quant_conv=quantise,
    )


def _ddim(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def _frozen(pipeline: Any, dtype: torch.dtype) -> Any:
    """In `dtype`, in evaluation mode, without gradients, and silent."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
            if dtype != torch.float32:
                component.to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
