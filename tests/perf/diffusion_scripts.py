"""Training and inversion as diffusers' example scripts arrange them, written from the published formulas.

What is particular to that arrangement: at every step pictures are read from their files, resized and perhaps flipped,
and go through the autoencoder, and texts go through the tokenizer and the text encoder; textual inversion lets the
optimiser have the whole table of words and puts the others back; the network's own modules are trained in training
mode, LoRA as peft's layers in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDPMScheduler
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional


class PictureFiles:
    """The scripts' data set: files, read anew at each step."""

    def __init__(self, images: Tensor, folder: Path) -> None:
        """images [N,3,H,W] in 0..1; `folder` receives them as PNG."""
        self.side = images.shape[-1]
        self.paths = [folder / f"{number}.png" for number in range(len(images))]
        for path, image in zip(self.paths, images, strict=True):
            levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(levels).save(path)

    def read(self, generator: torch.Generator) -> Tensor:
        """Pixels [N,3,H,W] in -1..1, each flipped with probability 1/2."""
        rows = []
        for path in self.paths:
            image = Image.open(path).convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
            if float(torch.rand((), generator=generator)) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            rows.append(torch.from_numpy((np.array(image) / 127.5 - 1.0).astype(np.float32)).permute(2, 0, 1))
        return torch.stack(rows).contiguous()


def _loss(
    pipeline: Any, schedule: DDPMScheduler, files: PictureFiles, text: Tensor, generator: torch.Generator
) -> Tensor:
    """|eps - eps_theta(x_t, t, text)|^2 on freshly encoded pictures."""
    with torch.no_grad():
        pixels = files.read(generator)
        latents = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    time = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    noisy = schedule.add_noise(latents, noise, time)
    wanted = noise
    if schedule.config.prediction_type == "v_prediction":
        wanted = schedule.get_velocity(latents, noise, time)
    return functional.mse_loss(pipeline.unet(noisy, time, text).sample, wanted)


def _ids(pipeline: Any, prompts: Sequence[str]) -> Tensor:
    tokenizer = pipeline.tokenizer
    found: Tensor = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return found


def textual_inversion(pipeline: Any, files: PictureFiles, *, lr: float = 5e-3) -> Iterator[Callable[[], float]]:
    """Steps of textual inversion: AdamW on the table of words, whose other rows are put back after each step."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    tokenizer.add_tokens("<me>")
    encoder.resize_token_embeddings(len(tokenizer))
    place = tokenizer.convert_tokens_to_ids("<me>")
    table = encoder.get_input_embeddings().weight
    table.requires_grad_(True)
    before = table.detach().clone()
    others = torch.arange(len(table)) != place
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimizer = torch.optim.AdamW([table], lr=lr)
    generator = torch.Generator().manual_seed(0)
    encoder.train()

    def step() -> float:
        text = encoder(_ids(pipeline, ["a portrait of <me>"] * len(files.paths)))[0]
        loss = _loss(pipeline, schedule, files, text, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table[others] = before[others]
        return float(loss.detach())

    while True:
        yield step


def lora(pipeline: Any, files: PictureFiles, *, lr: float = 1e-3, rank: int = 8) -> Iterator[Callable[[], float]]:
    """Steps of DreamBooth with LoRA: peft's adapters on the attention, texts read at every step."""
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    trained = [value for value in pipeline.unet.parameters() if value.requires_grad]
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimizer = torch.optim.AdamW(trained, lr=lr)
    generator = torch.Generator().manual_seed(0)
    pipeline.unet.train()

    def step() -> float:
        with torch.no_grad():
            text = pipeline.text_encoder(_ids(pipeline, ["a portrait of a sks person"] * len(files.paths)))[0]
        loss = _loss(pipeline, schedule, files, text, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    while True:
        yield step


def ddim_inversion(pipeline: Any, images: Tensor, prompt: str, *, steps: int) -> Tensor:
    """Start noise [N, *latent] by diffusers' inverse scheduler, without guidance."""
    schedule = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    schedule.set_timesteps(steps)
    with torch.no_grad():
        text = pipeline.text_encoder(_ids(pipeline, [prompt] * len(images)))[0]
        x = pipeline.vae.encode(images * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
        for time in schedule.timesteps:
            x = schedule.step(pipeline.unet(x, time, text).sample, time, x).prev_sample
    found: Tensor = x
    return found
