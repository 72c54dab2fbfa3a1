"""The card of avatars/flux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import FluxPipeline

from backbones.diffusion.train import common


def card(pipeline: FluxPipeline, scores: Mapping[str, Any], captions: Sequence[str]) -> str:
    """What a user should know about the model, in Markdown."""
    real = scores["judge_on_real_pictures"]
    rows = [(n, f"{100 * a:.0f} %", f"{100 * real[n]:.0f} %") for n, a in scores["agreement"].items()]
    sizes = {
        "transformer": pipeline.transformer,
        "T5 encoder": pipeline.text_encoder_2,
        "CLIP text encoder": pipeline.text_encoder,
        "autoencoder": pipeline.vae,
    }
    parts = ", ".join(f"{name} {common.parameters(part) / 1e6:.2f} M" for name, part in sizes.items())
    lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
    config, side = pipeline.transformer.config, pipeline.vae.config.sample_size
    return f"""# avatars/flux

A FluxPipeline for {side}x{side} avatars: a rectified flow with {config.num_layers} double and
{config.num_single_layers} single blocks, latents packed 2 x 2 into tokens. Parameters: {parts}.

The autoencoder is avatars/autoencoder with a shift, so that latents have mean 0 and deviation 1. The CLIP text
encoder is that of avatars/clip, unchanged; of it the transformer reads the pooled vector. The T5 encoder started
at random and was trained together with the transformer. Text is {pipeline.tokenizer_2.model_max_length} tokens of
T5, padding included; T5 knows the captions' words as they are written there, in small letters.

Guidance is classifier-free (no guidance is distilled into the network, which has no input for it), about
{scores["guidance"]}; 25 Euler steps or more, without shift. In a plain FluxPipeline: height={side}, width={side},
max_sequence_length={pipeline.tokenizer_2.model_max_length}, negative_prompt="", true_cfg_scale={scores["guidance"]}.

The folder holds the transformer and T5 in a byte a weight; what is shared is read from avatars/clip and
avatars/stable-diffusion beside it. `read_pipeline(folder, "flux")` of `backbones.diffusion.loading` is the
FluxPipeline, whose `save_pretrained` writes a plain folder for diffusers.

Data: the avatars training split, captions drawn anew each step, one in ten empty. Sigmas logit-normal (Esser et
al. 2024, section 3.1), the loss shared evenly among the attributes by where they show, AdamW, exponential
average of the weights.

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/flux`, after avatars/clip, avatars/autoencoder and avatars/stable-diffusion.

{scores["samples"]} samples with guidance {scores["guidance"]}, each asked for one value of one attribute; how
often {scores["judge"]}, finds that value, and how often it names real pictures rightly:

{common.table(("attribute", "in samples", "on real pictures"), rows)}

`samples.png`: pictures of the validation split above, samples from their captions below:

{lines}
"""
