"""Tiny random Janus and Chameleon: 16x16 pictures, 4x4 visual tokens, a few words."""

from __future__ import annotations

import torch

import unified  # noqa: F401  torchvision loads beside any torch from here on
from backbones.autoregressive.chameleon import CHAMELEON_LAYOUT, Chameleon
from backbones.autoregressive.janus import Janus, JanusLayout
from backbones.autoregressive.layout import PromptLayout
from backbones.autoregressive.text_tokenizer import build_text_tokenizer
from unified.avatars import captions

JANUS_LAYOUT = JanusLayout()
_WORDS = [*captions.vocabulary(), ",", ".", "user", "assistant"]


def _loud(model: torch.nn.Module, *, seed: int) -> None:
    """Larger weights than usual, so that the logits differ clearly between tokens."""
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if value.ndim == 2 and "vision_model" not in name:
            torch.nn.init.normal_(value, std=0.5 if "embed" in name else 0.25)


def janus_model(*, seed: int = 0, image_tokens: int = 16):  # type: ignore[no-untyped-def]
    """(JanusForConditionalGeneration, its tokenizer)."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    tokens = PromptLayout(
        begin="<bos>", image_start=JANUS_LAYOUT.image_start, image_end=JANUS_LAYOUT.image_end, end="<eos>", pad="<pad>"
    )
    tokenizer = build_text_tokenizer(_WORDS, codes=0, layout=tokens)
    torch.manual_seed(seed)
    config = JanusConfig(
        text_config=dict(
            model_type="llama",
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        vision_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=16,
            patch_size=4,
            projection_dim=32,
            num_image_tokens=image_tokens,
        ),
        vq_config=dict(
            embed_dim=4,
            num_embeddings=16,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = JanusForConditionalGeneration(config).eval()
    _loud(model, seed=seed)
    model.generation_config.generation_kwargs = {
        "boi_token_id": tokenizer.convert_tokens_to_ids(JANUS_LAYOUT.image_start)
    }
    for name in ("bos", "pad", "eos"):
        setattr(model.generation_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    return model, tokenizer


def janus(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Janus:
    model, tokenizer = janus_model(seed=seed)
    return Janus("tiny/janus", model.to(dtype), tokenizer)


def chameleon(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Chameleon:
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    tokenizer = build_text_tokenizer(_WORDS, codes=0, layout=CHAMELEON_LAYOUT)
    codes = 16
    # The released names: IMGIMG, the digits of the code as letters, Z.
    names = {"IMGIMG" + "".join(chr(ord("A") + int(d)) for d in str(code)) + "Z": code for code in range(codes)}
    start = len(tokenizer)
    vocabulary = {**tokenizer.get_vocab(), **{name: start + code for name, code in names.items()}}
    torch.manual_seed(seed)
    config = ChameleonConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        vocabulary_map=vocabulary,
        vq_config=dict(
            embed_dim=4,
            num_embeddings=codes,
            latent_channels=4,
            resolution=16,
            base_channels=32,
            channel_multiplier=[1, 1, 1],
            num_res_blocks=1,
        ),
    )
    model = ChameleonForConditionalGeneration(config).eval()
    _loud(model, seed=seed)
    return Chameleon("tiny/chameleon", model.to(dtype), tokenizer)
