"""Training of the multi-scale tokenizer of avatars/var.

    loss = focus * |x - y| + lpips * LPIPS(x, y)
           + mean over scales of (commitment * |z - sg(s_k)|^2 + |s_k - sg(z)|^2)

with more focus where the attributes of the avatars show (`unified.zoo.focus`). z are the latents, s_k what the scales
up to k reconstruct of them (Tian et al. 2024, VAR, section 3.2 and its released quantiser). The codebook is kept as an
exponential average of the residuals of all scales with restarts (`codebook.py`), where VAR trains it by gradient; the
convolutions have the gradient of the last term. The first steps train an autoencoder without quantisation, whose
latents then start the codebook.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones.autoregressive.scales import MultiScaleTokenizer, ScaleSettings
from backbones.autoregressive.train.card import write_card
from backbones.autoregressive.train.codebook import CodebookAverage
from backbones.autoregressive.train.schedule import warmup_cosine
from backbones.autoregressive.train.tokenizer import draw_batch, measure
from unified.avatars import dataset
from unified.errors import UserError
from unified.metrics.lpips import LPIPS
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, step_generator, train_loop

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class VarTokenizerSettings:
    scales: ScaleSettings = field(default_factory=ScaleSettings)
    steps: int = 2500
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 50
    lpips: float = 1.0
    commitment: float = 0.25
    continuous: int = 200  # steps without quantisation
    focus: float = 0.6  # share of the pixel loss that goes to where the attributes show


class _Training(nn.Module):
    """One forward pass, so that several processes see one module."""

    def __init__(self, tokenizer: MultiScaleTokenizer, commitment: float) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.commitment = commitment

    def forward(self, pictures: Tensor, *, quantized: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(pictures rebuilt, loss of the quantiser, residuals [N,count,D], codes [N,count])."""
        latents = self.tokenizer.latents(pictures)
        rounding = self.tokenizer.rounding(latents)
        if not quantized:
            return self.tokenizer.decode_vectors(latents), latents.new_zeros(()), rounding.assigned, rounding.codes
        terms = [
            self.commitment * (latents - total.detach()).square().mean() + (total - latents.detach()).square().mean()
            for total in rounding.sums
        ]
        straight = latents + (rounding.sums[-1] - latents).detach()
        loss = torch.stack(terms).mean()
        return self.tokenizer.decode_vectors(straight), loss, rounding.assigned, rounding.codes


def build(settings: BuildSettings) -> None:
    """Train on the avatars, resume if interrupted, and export to `settings.out`."""
    data, choice = dataset.load("train"), VarTokenizerSettings()
    train_var_tokenizer(
        settings,
        choice,
        images=data.images,
        held_out=dataset.load("validation").images,
        perceptual=LPIPS(),
        focus=focus_map(data.images, data.attributes, side=data.images.shape[1:3], share=choice.focus),
    )


def train_var_tokenizer(
    build_settings: BuildSettings,
    settings: VarTokenizerSettings,
    *,
    images: numpy.ndarray,
    held_out: numpy.ndarray,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    focus: Tensor | None = None,
) -> MultiScaleTokenizer:
    """Train on `images`, uint8 [N,H,W,3].

    perceptual: maps two batches of pictures to distances [N]. focus [H,W]: weight of the pixels, 1 if None.
    """
    accelerator = Accelerator()
    steps = build_settings.pick_steps(settings.steps)
    batch = build_settings.pick_batch(settings.batch)
    seed = build_settings.seed
    torch.manual_seed(seed)
    tokenizer = MultiScaleTokenizer(settings.scales).to(accelerator.device)
    tokenizer.codebook.requires_grad_(False)
    trained = [p for p in tokenizer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    if isinstance(perceptual, nn.Module):
        perceptual = perceptual.to(accelerator.device)
    wrapped, prepared = accelerator.prepare(_Training(tokenizer, settings.commitment), optimizer)
    weights = (torch.ones(()) if focus is None else focus).to(accelerator.device)
    average = CodebookAverage(tokenizer.codebook)
    rate = warmup_cosine(steps=steps, peak=settings.learning_rate, warmup=settings.warmup)
    descend = Descent(accelerator, prepared, tokenizer, rate=rate)

    def step_fn(step: int) -> dict[str, float]:
        process = accelerator.process_index
        pictures = draw_batch(images, seed=seed, step=step, batch=batch, process=process).to(accelerator.device)
        shared = step_generator(seed, step, stream=-1)
        quantized = step >= settings.continuous
        if step == settings.continuous:
            with torch.no_grad():
                residuals = tokenizer.rounding(tokenizer.latents(pictures)).assigned
                average.start(accelerator.gather(residuals.flatten(0, 1)), shared)
        rebuilt, quantiser, residuals, codes = wrapped(pictures, quantized=quantized)
        pixel = ((rebuilt - pictures).abs() * weights).mean()
        distance = torch.zeros((), device=accelerator.device)
        if perceptual is not None:
            distance = perceptual(rebuilt, pictures).mean()
        loss = pixel + quantiser + settings.lpips * distance
        descend(step, loss)
        restarted = 0
        if quantized:
            restarted = average.update(residuals.flatten(0, 1), codes.flatten(), shared, accelerator)
        return {
            "pixel": pixel.item(),
            "lpips": distance.item(),
            "quantiser": quantiser.item(),
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
    tokenizer.requires_grad_(False).eval()
    if accelerator.is_main_process:
        out = build_settings.out
        save_tokenizer(tokenizer, out)
        pictures = dataset.to_tensor(held_out[:16]).to(accelerator.device)
        both = torch.cat([pictures, tokenizer.decode(tokenizer.encode(pictures))])
        save_sheet(out / "samples.png", both, columns=16)
        write_card(
            out / "card.md",
            title="avatars/var image tokenizer",
            text="A multi-scale residual tokenizer that turns a 64x64 avatar into token maps of sides "
            f"{', '.join(str(side) for side in settings.scales.sides)}, with one codebook for all. "
            "samples.png: held-out pictures above, their reconstructions below.",
            facts={
                "parameters": sum(p.numel() for p in tokenizer.parameters()),
                "steps": reached,
                "batch": batch,
                "training minutes": round(seconds / 60, 1),
            },
            scores=measure(tokenizer, held_out, perceptual),
            command="unified zoo build avatars/var-tokenizer",
        )
    return tokenizer


def save_tokenizer(tokenizer: MultiScaleTokenizer, folder: Path) -> None:
    """Weights in half precision, by a temporary name."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}.safetensors"
    save_file({k: v.detach().half().contiguous().cpu() for k, v in tokenizer.state_dict().items()}, temporary)
    temporary.replace(folder / WEIGHTS)


def load_tokenizer(folder: Path, settings: ScaleSettings) -> MultiScaleTokenizer:
    """What `save_tokenizer` wrote, frozen. Raises UserError if it is not there or of other sizes."""
    tokenizer = MultiScaleTokenizer(settings)
    try:
        tokenizer.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"avatars/var needs its trained image tokenizer in {folder} ({error}); build avatars/var-tokenizer first"
        ) from error
    return tokenizer.eval().requires_grad_(False)
