"""Training of avatars/flux: text to 64x64 pictures with the parts of FLUX.1.

A rectified flow (Liu et al. 2023) on the latents of the shared autoencoder, x = (1 - sigma) x0 + sigma eps: the
transformer predicts eps - x0. Training sigmas are logit-normal with mean 0 and deviation 1 and no shift (Esser
et al. 2024, section 3.1), which is also what inversions of the model draw; sampling is Euler on even sigmas.

Of the two text encoders, CLIP's is that of avatars/clip, frozen: only its pooled vector is read, and contrastive
training is for that vector. The T5 encoder, which gives the tokens, starts at random and is trained with the
transformer, as in the first latent diffusion models: there is no pretrained T5 this small.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, T5EncoderModel

from backbones.diffusion.compact_folder import Place, compact
from backbones.diffusion.flux import pack, positions, unpack
from backbones.diffusion.train import clip as clip_training
from backbones.diffusion.train import common, unigram
from backbones.diffusion.train.agreement import agreement
from backbones.diffusion.train.common import Pictures
from backbones.diffusion.train.flux_card import card
from backbones.diffusion.train.flux_networks import (
    Sizes,
    logit_normal,
    make_pipeline,
    make_text_encoder,
    make_transformer,
    standardised,
)
from backbones.diffusion.train.unet import cached_latents, text_encoder_of
from unified.errors import UserError
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 6000
BATCH = 32
GUIDANCE = 3.0
AVATARS = Sizes()


@dataclass(frozen=True)
class Recipe:
    """How the transformer and the T5 encoder are trained.

    focus: share of the loss that goes to where the attributes show (see `focus_map`); 0 is the plain loss.
    empty: share of captions replaced by the empty one, for guidance.
    """

    learning_rate: float = 1e-3
    focus: float = 0.6
    warmup: int = 100
    weight_decay: float = 0.01
    empty: float = 0.1
    half_life: float = 120.0


class FlowLoss(nn.Module):
    """T5 encoder and transformer in one forward call, so that distributed training averages the gradients."""

    focus: Tensor

    def __init__(self, transformer: FluxTransformer2DModel, text_encoder: T5EncoderModel, focus: Tensor) -> None:
        """focus [h,w]: weight of the squared error at each place of the latents, 1 on average."""
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.register_buffer("focus", focus, persistent=False)

    def forward(self, latents: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor, pooled: Tensor) -> Tensor:
        """Squared error [B] of the predicted eps - x0, a mean over the latents' elements under `focus`.

        latents, noise [B,C,h,w]; sigma [B] in 0..1; ids [B,L] of T5; pooled [B,D] of CLIP.
        """
        height, width = latents.shape[-2:]
        level = sigma[:, None, None, None]
        text = self.text_encoder(input_ids=ids)[0]
        output = self.transformer(
            hidden_states=pack((1 - level) * latents + level * noise),
            timestep=sigma,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(ids.shape[1], 3, device=ids.device),
            img_ids=positions(height // 2, width // 2).to(ids.device),
            return_dict=False,
        )[0]
        error = (unpack(output, height, width) - (noise - latents)).square()
        return (error * self.focus).mean((1, 2, 3))


def train(
    settings: BuildSettings,
    *,
    pictures: Pictures,
    validation: Pictures,
    vocabulary: Sequence[str],
    clip: Path,
    autoencoder: Path,
    sizes: Sizes = AVATARS,
    recipe: Recipe = Recipe(),
) -> None:
    """Train (or go on training) and export a FluxPipeline folder to `settings.out`.

    vocabulary: texts whose words are tokens of T5. clip, autoencoder: the folders of the finished avatars/clip
    and avatars/autoencoder.
    """
    for folder, name in ((clip, "avatars/clip"), (autoencoder, "avatars/autoencoder")):
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} holds no finished model; build {name} first (unified zoo build {name}).")
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    clip_tokenizer = CLIPTokenizer.from_pretrained(clip, local_files_only=True)
    contrastive = CLIPModel.from_pretrained(clip, local_files_only=True, dtype=torch.float32).eval()
    clip_text = text_encoder_of(contrastive).eval().requires_grad_(False)
    decoder = AutoencoderKL.from_pretrained(autoencoder, local_files_only=True).eval()
    latents = cached_latents(decoder, pictures, work=settings.work)
    mean, deviation = float(latents.mean()), float(latents.std())
    latents = (latents - mean) / deviation
    torch.manual_seed(settings.seed)
    tokenizer = unigram.build_tokenizer(vocabulary, max_length=sizes.tokens)
    width = contrastive.config.text_config.hidden_size
    model = FlowLoss(
        make_transformer(latent=latents.shape[1], pooled=width, sizes=sizes),
        make_text_encoder(tokenizer, sizes),
        focus_map(pictures.images, pictures.labels, side=(latents.shape[2], latents.shape[3]), share=recipe.focus),
    ).train()
    accelerator = Accelerator()
    device = accelerator.device
    clip_text.to(device)
    average = ExponentialAverage(model, half_life=recipe.half_life)
    average.module.to(device)
    optimizer = torch.optim.AdamW(common.decay_groups(model, weight_decay=recipe.weight_decay), lr=1.0)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, model, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        indices = common.draw(pictures, batch, generator=generator)
        captions = pictures.captions(indices, generator=generator)
        texts = common.some_empty(captions, recipe.empty, generator=generator)
        sigma = logit_normal(batch, generator=generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        with torch.no_grad():
            pooled = clip_text(clip_training.tokenize(clip_tokenizer, texts, full=True).to(device)).pooler_output
        ids = unigram.tokenize(tokenizer, texts).to(device)
        loss = wrapped(latents[indices].to(device), noise.to(device), sigma.to(device), ids, pooled).mean()
        descend(step, loss)
        return {"error": loss.item()}

    state = {"model": model, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        final: Any = average.module.cpu().eval()
        pipeline = make_pipeline(
            final.transformer,
            clip=clip_text.cpu(),
            clip_tokenizer=clip_tokenizer,
            t5=final.text_encoder,
            t5_tokenizer=tokenizer,
            autoencoder=standardised(decoder, mean=mean, deviation=deviation),
        )
        scores = evaluate(pipeline, contrastive, pictures, validation)
        scores |= {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        export(pipeline, scores, validation=validation, out=settings.out)


def sample(
    pipeline: FluxPipeline, prompts: Sequence[str], *, steps: int = 25, guidance: float = GUIDANCE, seed: int = 0
) -> Tensor:
    """Pictures [N,3,H,W] in -1..1, one per prompt, each from a seed of its own."""
    side = int(pipeline.vae.config.sample_size)
    output = pipeline(
        list(prompts),
        negative_prompt=[""] * len(prompts),
        true_cfg_scale=guidance,
        height=side,
        width=side,
        num_inference_steps=steps,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(len(prompts))],
        output_type="pt",
    )
    return output.images.float() * 2 - 1


def evaluate(pipeline: FluxPipeline, judge: CLIPModel, pictures: Pictures, validation: Pictures) -> dict[str, Any]:
    """How often the model draws what it is asked for; see `agreement`."""
    found = agreement(
        lambda prompts, seed: sample(pipeline, prompts, seed=seed),
        judge,
        pipeline.tokenizer,
        pictures=pictures,
        validation=validation,
    )
    return found | {"guidance": GUIDANCE}


def export(pipeline: FluxPipeline, scores: Mapping[str, Any], *, validation: Pictures, out: Path) -> None:
    """Write the folder that FluxPipeline.from_pretrained loads, in half precision."""
    indices = torch.arange(min(12, len(validation)))
    captions = validation.captions(indices, generator=common.batch_generator(0, 0, stream=9))
    images = sample(pipeline, captions)
    autoencoder = copy.deepcopy(pipeline.vae)
    autoencoder.register_to_config(_name_or_path="")  # the folder it was read from stays out of the model's files
    stored = make_pipeline(
        common.halved(pipeline.transformer),
        clip=common.halved(pipeline.text_encoder),
        clip_tokenizer=pipeline.tokenizer,
        t5=common.halved(pipeline.text_encoder_2),
        t5_tokenizer=pipeline.tokenizer_2,
        autoencoder=common.halved(autoencoder),
    )
    with common.replacing(out) as folder:
        stored.save_pretrained(folder)
        for encoder in ("text_encoder", "text_encoder_2"):
            common.declare_float32(folder / encoder / "config.json")
        common.write_scores(folder, scores)
        both = torch.cat([validation.tensor(indices), images]) / 2 + 0.5
        save_sheet(folder / "samples.png", both, columns=len(indices), scale=2)
        (folder / "card.md").write_text(card(pipeline, scores, captions), encoding="utf-8")


# Where the shipped model has its text encoder and autoencoder from; both are unchanged.
SHARED = {
    "text_encoder": Place("../clip/model.safetensors", "text_model."),
    "vae": Place("../stable-diffusion/vae/diffusion_pytorch_model.safetensors"),
}


def build(settings: BuildSettings) -> None:
    """Builder of avatars/flux; "clip", "autoencoder" and "stable-diffusion" are expected beside `settings.out`."""
    from unified.avatars import captions

    train(
        settings,
        pictures=common.avatars("train"),
        validation=common.avatars("validation"),
        vocabulary=captions.vocabulary(),
        clip=settings.out.parent / "clip",
        autoencoder=settings.out.parent / "autoencoder",
    )
    compact(settings.out, SHARED)
