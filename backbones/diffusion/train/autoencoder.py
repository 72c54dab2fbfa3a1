"""Training of the autoencoder of the embedded diffusion models: 64x64 pictures to 4x16x16 latents.

A diffusers AutoencoderKL, as in latent diffusion (Rombach et al. 2022, section 3.1) without the adversarial
term: L1, squared error, a perceptual term and a small Kullback-Leibler term. Flat drawings have few textures
to invent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from backbones.diffusion.train import common
from backbones.diffusion.train.common import Pictures
from unified.zoo.descent import Descent
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 1800
BATCH = 16

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Channels at full, half and quarter resolution. Few at full resolution, where they cost the most."""

    channels: tuple[int, ...] = (16, 32, 96)
    layers: int = 1
    groups: int = 8
    latent: int = 4
    picture: int = 64


@dataclass(frozen=True)
class Recipe:
    """Weights of the loss terms (L1 has weight 1 on pictures in -1..1) and the optimiser's settings.

    squared: weight of the squared error, which keeps pulling where L1 is content with the median colour.

    divergence: weight of the Kullback-Leibler divergence, averaged over the latents' elements.
    """

    learning_rate: float = 2e-3
    warmup: int = 50
    squared: float = 2.0
    perceptual: float = 0.15
    divergence: float = 3e-4
    half_life: float = 80.0


def make_model(sizes: Sizes = Sizes()) -> AutoencoderKL:
    """A randomly initialised AutoencoderKL that halves the resolution between channel counts."""
    levels = len(sizes.channels)
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        latent_channels=sizes.latent,
        norm_num_groups=sizes.groups,
        sample_size=sizes.picture,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        # A posterior of standard deviation 0.08 to begin with: at 1 the decoder first learns to ignore it.
        model.quant_conv.bias[sizes.latent :] = -5.0
    return model


def gradient_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean difference [B] of the horizontal and vertical gradients at three scales; pictures in 0..1.

    The stand-in for LPIPS where its weights are missing: it keeps edges sharp.
    """
    error = first - second
    total = error.new_zeros(len(error))
    for _ in range(3):
        horizontal = error[..., :, 1:] - error[..., :, :-1]
        vertical = error[..., 1:, :] - error[..., :-1, :]
        total = total + horizontal.abs().mean((1, 2, 3)) + vertical.abs().mean((1, 2, 3))
        error = functional.avg_pool2d(error, 2)
    return total


def perceptual_distance() -> tuple[str, Perceptual]:
    """(name, distance [B] of pictures in 0..1): LPIPS if its weights are there, else gradient differences."""
    try:
        from unified.errors import UserError
        from unified.metrics.lpips import LPIPS
    except ImportError:
        return "gradient differences at three scales", gradient_distance
    try:
        network = LPIPS()
    except UserError:
        return "gradient differences at three scales", gradient_distance

    def distance(first: Tensor, second: Tensor) -> Tensor:
        network.to(first.device)
        return (network.features(first) - network.features(second)).square().sum(1)

    return "LPIPS-Alex", distance


class ReconstructionLoss(nn.Module):
    """All terms in one forward call, so that distributed training averages the gradients."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, noise: Tensor, perceptual: Perceptual) -> tuple[Tensor, ...]:
        """(L1, squared error, perceptual distance, divergence), each a mean.

        pixels in -1..1; noise [B,4,h,w], standard normal.
        """
        posterior = self.model.encode(pixels).latent_dist
        output = self.model.decode(posterior.mean + posterior.std * noise).sample
        elements = noise[0].numel()
        return (
            (output - pixels).abs().mean(),
            (output - pixels).square().mean(),
            perceptual((output + 1) / 2, (pixels + 1) / 2).mean(),
            posterior.kl().mean() / elements,
        )


def peak_signal_to_noise(first: Tensor, second: Tensor) -> Tensor:
    """PSNR [B] in dB of pictures in -1..1."""
    return -10 * ((first - second) / 2).square().mean((1, 2, 3)).log10()


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: Pictures, *, batch: int = 64) -> Tensor:
    """Latents float [N,4,h,w] of all pictures: the posterior's means, not scaled."""
    device = next(model.parameters()).device
    parts = torch.arange(len(pictures)).split(batch)
    return torch.cat([model.encode(pictures.tensor(part).to(device)).latent_dist.mean.cpu() for part in parts])


@torch.no_grad()
def evaluate(
    model: AutoencoderKL,
    pictures: Pictures,
    *,
    limit: int = 512,
    perceptual: tuple[str, Perceptual] | None = None,
) -> dict[str, Any]:
    """PSNR and perceptual distance (as in `train`) of reconstructions from the posterior's means."""
    model = model.eval()
    name, distance = perceptual_distance() if perceptual is None else perceptual
    psnr, distances = [], []
    for part in torch.arange(min(limit, len(pictures))).split(64):
        pixels = pictures.tensor(part)
        output = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        psnr.append(peak_signal_to_noise(output, pixels))
        distances.append(distance((output + 1) / 2, (pixels + 1) / 2))
    return {
        "psnr": round(torch.cat(psnr).mean().item(), 3),
        "perceptual": round(torch.cat(distances).mean().item(), 4),
        "perceptual_name": name,
        "pictures": min(limit, len(pictures)),
    }


@torch.no_grad()
def measure_scale(model: AutoencoderKL, pictures: Pictures, *, limit: int = 1024) -> float:
    """1 / standard deviation of the latents: what brings them to unit variance for the diffusion."""
    indices = torch.arange(min(limit, len(pictures)))
    parts = [model.encode(pictures.tensor(part)).latent_dist for part in indices.split(64)]
    return float(1 / torch.cat([part.mean for part in parts]).std())


def train(
    settings: BuildSettings,
    *,
    pictures: Pictures,
    validation: Pictures,
    sizes: Sizes = Sizes(),
    recipe: Recipe = Recipe(),
    perceptual: tuple[str, Perceptual] | None = None,
) -> None:
    """Train (or go on training) and export to `settings.out`: weights, scores, card, reconstructions.

    perceptual: name and function of the perceptual term; None is LPIPS where its weights are there.
    """
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    name, distance = perceptual_distance() if perceptual is None else perceptual
    torch.manual_seed(settings.seed)
    model = make_model(sizes)
    accelerator = Accelerator()
    average = ExponentialAverage(model, half_life=recipe.half_life)
    average.module.to(accelerator.device)
    loss_module = ReconstructionLoss(model)
    optimizer = torch.optim.AdamW(common.decay_groups(loss_module, weight_decay=1e-3), lr=1.0, betas=(0.9, 0.98))
    wrapped, optimizer = accelerator.prepare(loss_module, optimizer)
    side = sizes.picture // 2 ** (len(sizes.channels) - 1)
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, model, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        indices = common.draw(pictures, batch, generator=generator)
        noise = torch.randn(batch, sizes.latent, side, side, generator=generator)
        pixels = pictures.tensor(indices).to(accelerator.device)
        absolute, squared, perceived, divergence = wrapped(pixels, noise.to(accelerator.device), distance)
        loss = absolute + recipe.squared * squared + recipe.perceptual * perceived
        descend(step, loss + recipe.divergence * divergence)
        return {
            "l1": absolute.item(),
            "squared": squared.item(),
            "perceptual": perceived.item(),
            "divergence": divergence.item(),
        }

    state = {"model": model, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        final: Any = average.module.cpu()
        final.register_to_config(scaling_factor=measure_scale(final, pictures))
        scores = evaluate(final, validation, perceptual=(name, distance))
        scores |= {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        scores |= {"perceptual_loss": name, "scaling_factor": final.config.scaling_factor}
        export(final, scores, validation=validation, out=settings.out)


@torch.no_grad()
def export(model: AutoencoderKL, scores: Mapping[str, Any], *, validation: Pictures, out: Path) -> None:
    """Write the folder that AutoencoderKL.from_pretrained loads."""
    pixels = validation.tensor(torch.arange(min(12, len(validation))))
    output = model.decode(model.encode(pixels).latent_dist.mean).sample
    with common.replacing(out) as folder:
        common.halved(model).save_pretrained(folder)
        common.write_scores(folder, scores)
        both = torch.cat([pixels, output]) / 2 + 0.5
        save_sheet(folder / "reconstructions.png", both, columns=len(pixels), scale=2)
        (folder / "card.md").write_text(card(model, scores), encoding="utf-8")


def card(model: AutoencoderKL, scores: Mapping[str, Any]) -> str:
    """What a user should know about the model, in Markdown."""
    return f"""# avatars/autoencoder

An AutoencoderKL of {common.parameters(model) / 1e6:.2f} M parameters: 64x64 pictures in -1..1 to 4x16x16
latents; channels {tuple(model.config.block_out_channels)}. Shared by the embedded diffusion models.

Data: the avatars training split. Loss: L1 + squared error + perceptual
({scores["perceptual_loss"]}) + a small Kullback-Leibler term; no discriminator.
Exponential average of the weights.

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/autoencoder`.

On {scores["pictures"]} pictures of the validation split: PSNR {scores["psnr"]:.2f} dB,
{scores["perceptual_name"]} {scores["perceptual"]:.4f}. Scaling factor (1 / standard deviation of the
latents): {scores["scaling_factor"]:.4f}. `reconstructions.png`: pictures above, reconstructions below.
"""


def build(settings: BuildSettings) -> None:
    """Builder of avatars/autoencoder."""
    train(settings, pictures=common.avatars("train"), validation=common.avatars("validation"))
