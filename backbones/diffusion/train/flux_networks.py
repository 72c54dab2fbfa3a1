"""The networks of avatars/flux, randomly initialised, its noise levels, and the pipeline around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer


@dataclass(frozen=True)
class Sizes:
    """Blocks, heads and widths. `axes`: how a head's width is divided among the position's three coordinates.

    tokens: length of the text that the transformer reads; captions of avatars take at most 42.
    """

    double: int = 2
    single: int = 4
    heads: int = 4
    head_width: int = 48
    axes: tuple[int, int, int] = (8, 20, 20)
    text_width: int = 192
    text_layers: int = 2
    text_heads: int = 4
    tokens: int = 48


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Sigmas evenly spaced from 1 to 0, without shift, as FLUX.1 schnell has them.

    The shift of FLUX.1 dev grows with the number of tokens, since noise hides less of a larger picture (Esser
    et al. 2024, section 5.3.2); 64 tokens, all of one size, need none.
    """
    return FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)


def logit_normal(batch: int, *, generator: torch.Generator) -> Tensor:
    """Sigmas [batch] in 0..1, each logit-normal and together evenly spread over it: less noisy losses."""
    offsets = torch.rand(batch, generator=generator, dtype=torch.float64)
    places = torch.randperm(batch, generator=generator)
    uniform = ((places + offsets) / batch).clamp(1e-4, 1 - 1e-4)
    return torch.special.ndtri(uniform).sigmoid().float()


def make_text_encoder(tokenizer: T5Tokenizer, sizes: Sizes) -> T5EncoderModel:
    """A randomly initialised T5 1.1 encoder (gated GELU), without dropout."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=sizes.text_width,
        d_kv=sizes.text_width // sizes.text_heads,
        d_ff=2 * sizes.text_width,
        num_layers=sizes.text_layers,
        num_heads=sizes.text_heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def make_transformer(*, latent: int, pooled: int, sizes: Sizes) -> FluxTransformer2DModel:
    """A FluxTransformer2DModel for latents of `latent` channels and pooled text vectors of width `pooled`.

    Every block starts as the identity and the output as zero (Peebles & Xie 2023, section 3.2, adaLN-Zero):
    diffusers itself initialises the network as if it were only ever loaded.

    There is no input for guidance: that of FLUX.1 dev is learnt from a guided teacher, and there is none here.
    Guidance is the classifier-free one, of two evaluations.
    """
    model = FluxTransformer2DModel(
        in_channels=4 * latent,
        num_layers=sizes.double,
        num_single_layers=sizes.single,
        attention_head_dim=sizes.head_width,
        num_attention_heads=sizes.heads,
        joint_attention_dim=sizes.text_width,
        pooled_projection_dim=pooled,
        guidance_embeds=False,
        axes_dims_rope=sizes.axes,
    )
    zero = [block.norm1.linear for block in model.transformer_blocks]
    zero += [block.norm1_context.linear for block in model.transformer_blocks]
    zero += [block.norm.linear for block in model.single_transformer_blocks]
    for layer in (*zero, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


@torch.no_grad()
def standardised(autoencoder: AutoencoderKL, *, mean: float, deviation: float) -> Any:
    """The autoencoder with a shift: `mean`, `deviation` are those of its latents as they were scaled before.

    FLUX reads (z - shift) * scale, and its pipeline refuses an autoencoder without a shift.
    """
    before = autoencoder.config.scaling_factor
    autoencoder.register_to_config(shift_factor=mean / before, scaling_factor=before / deviation)
    return autoencoder


def make_pipeline(
    transformer: FluxTransformer2DModel,
    *,
    clip: CLIPTextModel,
    clip_tokenizer: CLIPTokenizer,
    t5: T5EncoderModel,
    t5_tokenizer: T5Tokenizer,
    autoencoder: AutoencoderKL,
) -> FluxPipeline:
    """The complete pipeline, silent."""
    pipeline = FluxPipeline(
        scheduler=make_scheduler(),
        vae=autoencoder,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
