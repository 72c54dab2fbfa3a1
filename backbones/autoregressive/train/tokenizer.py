"""Training of the image tokenizer of avatars/emu3: an `Emu3VQVAE` that turns 64x64 pictures into 8x8 codes.

    loss = focus * |x - y| + lpips * LPIPS(x, y) + commitment * |z - sg(e)|^2

with more focus where the attributes of the avatars show (`unified.zoo.focus`), the straight-through estimator
(van den Oord et al. 2017, equation 3) and the codebook kept as an exponential average, with restarts (see
`codebook.py`). The first steps train an autoencoder without quantisation, whose latents then start the codebook:
while the encoder still moves fast, codes would be left behind and collapse. `Emu3VQVAE` stays in eval mode: its
batch norms are then fixed affine maps, as in the released model, and a picture's codes do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.train.card import write_card
from backbones.autoregressive.train.codebook import CodebookAverage
from backbones.autoregressive.train.schedule import warmup_cosine
from unified.avatars import dataset
from unified.metrics.lpips import LPIPS
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, step_generator, train_loop


@dataclass(frozen=True)
class TokenizerSettings:
    """Sizes and training settings; `channels` must be a multiple of 32 (group norm with 32 groups)."""

    codes: int = 512
    dimension: int = 8
    channels: int = 32
    multiplier: tuple[int, ...] = (1, 1, 2, 4)
    blocks: int = 1
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 50
    lpips: float = 1.0
    commitment: float = 0.25
    continuous: int = 150  # steps without quantisation
    focus: float = 0.6  # share of the pixel loss that goes to where the attributes show


def vq_config(settings: TokenizerSettings) -> Emu3VQVAEConfig:
    """The configuration of the network; attention at the coarsest of its resolutions."""
    levels = len(settings.multiplier)
    return Emu3VQVAEConfig(
        codebook_size=settings.codes,
        embed_dim=settings.dimension,
        latent_channels=settings.dimension,
        base_channels=settings.channels,
        channel_multiplier=list(settings.multiplier),
        num_res_blocks=settings.blocks,
        attn_resolutions=[levels - 1],
        hidden_size=settings.channels * settings.multiplier[-1],
        temporal_downsample_factor=1,
    )


def draw_batch(images: numpy.ndarray, *, seed: int, step: int, batch: int, process: int = 0) -> Tensor:
    """Pictures [batch,3,H,W] in 0..1 of a step: a pure function of seed, step and process."""
    picks = torch.randint(len(images), (batch,), generator=step_generator(seed, step, stream=process))
    return dataset.to_tensor(images[picks.numpy()])


def build(settings: BuildSettings) -> None:
    """Train on the avatars, resume if interrupted, and export to `settings.out`."""
    data, choice = dataset.load("train"), TokenizerSettings()
    train_tokenizer(
        settings,
        choice,
        images=data.images,
        held_out=dataset.load("validation").images,
        perceptual=LPIPS(),
        focus=focus_map(data.images, data.attributes, side=data.images.shape[1:3], share=choice.focus),
    )


def train_tokenizer(
    build_settings: BuildSettings,
    settings: TokenizerSettings,
    *,
    images: numpy.ndarray,
    held_out: numpy.ndarray,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    focus: Tensor | None = None,
) -> ImageTokenizer:
    """Train on `images`, uint8 [N,H,W,3].

    perceptual: maps two batches of pictures to distances [N]. focus [H,W]: weight of the pixels, 1 if None.
    """
    accelerator = Accelerator()
    steps = build_settings.pick_steps(settings.steps)
    batch = build_settings.pick_batch(settings.batch)
    torch.manual_seed(build_settings.seed)
    tokenizer = ImageTokenizer(Emu3VQVAE(vq_config(settings)).eval())
    tokenizer.codebook.requires_grad_(False)
    trained = [p for p in tokenizer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    tokenizer = tokenizer.to(accelerator.device)
    if isinstance(perceptual, nn.Module):
        perceptual = perceptual.to(accelerator.device)
    wrapped, prepared = accelerator.prepare(tokenizer, optimizer)
    weights = torch.ones(()) if focus is None else focus
    weights = weights.to(accelerator.device)
    average = CodebookAverage(tokenizer.codebook)
    rate = warmup_cosine(steps=steps, peak=settings.learning_rate, warmup=settings.warmup)
    descend = Descent(accelerator, prepared, tokenizer, rate=rate)

    def step_fn(step: int) -> dict[str, float]:
        pictures = draw_batch(
            images, seed=build_settings.seed, step=step, batch=batch, process=accelerator.process_index
        ).to(accelerator.device)
        shared = step_generator(build_settings.seed, step, stream=-1)
        quantized = step >= settings.continuous
        if step == settings.continuous:
            with torch.no_grad():
                average.start(accelerator.gather(channels_last(tokenizer.latents(pictures))), shared)
        rebuilt, latents, codes = wrapped(pictures, quantized=quantized)
        pixel = ((rebuilt - pictures).abs() * weights).mean()
        commitment = (latents - tokenizer.lookup(codes)).square().mean()
        loss = pixel + settings.commitment * commitment if quantized else pixel
        distance = torch.zeros(())
        if perceptual is not None:
            distance = perceptual(rebuilt, pictures).mean()
            loss = loss + settings.lpips * distance
        descend(step, loss)
        restarted = 0
        if quantized:
            restarted = average.update(channels_last(latents), codes.flatten(), shared, accelerator)
        return {
            "pixel": pixel.item(),
            "lpips": distance.item(),
            "commitment": commitment.item(),
            "codes": float(codes.unique().numel()),
            "restarted": float(restarted),
        }

    reached, seconds = train_loop(
        step_fn,
        state={"tokenizer": tokenizer, "optimizer": prepared, "average": average},
        steps=steps,
        settings=build_settings,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        scores = measure(tokenizer, held_out, perceptual)
        export(tokenizer, build_settings.out, held_out, scores, steps=reached, batch=batch, seconds=seconds)
    return tokenizer


def channels_last(latents: Tensor) -> Tensor:
    """[N,D,h,w] as a list of vectors [N*h*w,D]."""
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


class Codec(Protocol):
    """What is measured of a tokenizer: codebook [K,D], pictures in 0..1 to codes and back."""

    @property
    def codebook(self) -> Tensor: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


@torch.no_grad()
def measure(
    tokenizer: Codec,
    held_out: numpy.ndarray,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    *,
    most: int = 256,
) -> dict[str, float]:
    """Scores of the reconstruction over the first `most` pictures of `held_out`, uint8 [N,H,W,3]."""
    device = tokenizer.codebook.device
    squared, distances, used = [], [], []
    for start in range(0, min(most, len(held_out)), 32):
        pictures = dataset.to_tensor(held_out[start : min(start + 32, most)]).to(device)
        codes = tokenizer.encode(pictures)
        rebuilt = tokenizer.decode(codes)
        squared.append((rebuilt - pictures).square().mean((1, 2, 3)))
        used.append(codes.flatten())
        if perceptual is not None:
            distances.append(perceptual(rebuilt, pictures).flatten())
    share = torch.bincount(torch.cat(used), minlength=tokenizer.codebook.shape[0]).double()
    share = share / share.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    scores = {
        "PSNR [dB]": float((-10 * torch.cat(squared).clamp_min(1e-12).log10()).mean()),
        "codes used": float((share > 0).sum()),
        "code perplexity": float(entropy.exp()),
    }
    if distances:
        scores["LPIPS-Alex"] = float(torch.cat(distances).mean())
    return scores


@torch.no_grad()
def export(
    tokenizer: ImageTokenizer,
    out: Path,
    held_out: numpy.ndarray,
    scores: dict[str, float],
    *,
    steps: int,
    batch: int,
    seconds: float,
) -> None:
    """Write weights (fp16), configuration, card and a grid of pictures above their reconstructions."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = dataset.to_tensor(held_out[:16]).to(tokenizer.codebook.device)
    half = Emu3VQVAE(tokenizer.vq.config)
    half.load_state_dict(tokenizer.vq.state_dict())
    half.half().save_pretrained(out)
    both = torch.cat([pictures, tokenizer.decode(tokenizer.encode(pictures))])
    save_sheet(out / "samples.png", both, columns=16)
    write_card(
        out / "card.md",
        title="avatars/emu3 image tokenizer",
        text="An Emu3VQVAE that turns a 64x64 avatar into 8x8 codes. "
        "samples.png: held-out pictures above, their reconstructions below.",
        facts={
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "steps": steps,
            "batch": batch,
            "training minutes": round(seconds / 60, 1),
        },
        scores=scores,
        command="unified zoo build avatars/tokenizer",
    )
