"""A start for StyleGAN2 training on few processors: the synthesis network first as the decoder of an autoencoder.

A variational autoencoder (Kingma and Welling 2014) whose code is w: picture -> encoder -> w -> synthesis. Its
synthesis network can already draw when the adversarial training begins, which then needs fewer pictures. The
mapping network is fitted to w = m + L z, with m and L L^T the mean and covariance of the codes, so that random
latents map to where the codes lie. The adversarial training that follows is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from backbones.stylegan.generator import Generator
from backbones.stylegan.mapping import normalise
from unified.metrics.lpips import LPIPS
from unified.zoo.training import BuildSettings, ExponentialAverage, step_generator, train_loop

LEARNING_RATE = 2e-3
DIVERGENCE_WEIGHT = 2e-4
PERCEPTUAL_WEIGHT = 0.5
PERCEPTUAL_PICTURES = 8  # of each batch; the perceptual distance is the dearest part of a step
HALF_LIFE = 100.0  # steps, of the averaged weights
MAXIMUM_NORM = 1.0  # of the gradient
MAPPING_STEPS = 3000
MAPPING_BATCH = 512


class Encoder(nn.Module):
    """Pictures [N,3,H,W] in -1..1 -> mean and log variance of w, each [N, width]."""

    def __init__(self, resolution: int, width: int, channels: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, size = 3, resolution
        for after in channels:
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before, size = after, size // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(before * size * size, 2 * width)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.features(images)).chunk(2, dim=1)
        return mean, log_variance - 4.0  # starts nearly deterministic: the decoder first learns to draw


class Autoencoder(nn.Module):
    """Encoder and generator (of which only the synthesis network is trained)."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.encoder = Encoder(generator.config.resolution, generator.config.w_dim)

    def decode(self, w: Tensor) -> Tensor:
        images: Tensor = self.generator.synthesis(
            w.unsqueeze(1).expand(-1, self.generator.config.num_ws, -1), noise="none"
        )
        return images

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction, divergence from the standard normal [N] in nats)."""
        mean, log_variance = self.encoder(images)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return self.decode(mean + (0.5 * log_variance).exp() * noise), divergence


def pretrain(
    generator: Generator, images: np.ndarray, settings: BuildSettings, *, steps: int, batch: int = 16, fit: bool = True
) -> Autoencoder:
    """Train `generator`'s synthesis network and fit its mapping; returns the averaged autoencoder, frozen.

    images: uint8 [N,H,W,3]. Resumes from `settings.work`. fit: whether the mapping is wanted too.
    """
    accelerator = Accelerator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Autoencoder(generator)
    trained = [*network.encoder.parameters(), *generator.synthesis.parameters()]
    optimiser = torch.optim.Adam(
        trained,
        lr=LEARNING_RATE,
        betas=(0.5, 0.99),
        fused=True,
    )
    average = ExponentialAverage(network, half_life=HALF_LIFE)
    wrapped, optimiser = accelerator.prepare(network, optimiser)
    lpips = LPIPS().to(accelerator.device)

    def step_fn(step: int) -> Mapping[str, float]:
        random = step_generator(settings.seed, step, stream=accelerator.process_index)
        chosen = torch.randint(len(images), (batch,), generator=random).numpy()
        pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        pixels = pixels.to(accelerator.device)
        noise = torch.randn(batch, generator_width, generator=random).to(accelerator.device)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100, max(0.05, 2 * (1 - step / steps)))
        made, divergence = wrapped(pixels, noise)
        part = slice(0, PERCEPTUAL_PICTURES)
        perceptual = lpips(made[part] / 2 + 0.5, pixels[part] / 2 + 0.5).mean()
        pixel = (made - pixels).abs().mean() + (made - pixels).square().mean()
        loss = pixel + PERCEPTUAL_WEIGHT * perceptual + DIVERGENCE_WEIGHT * divergence.mean()
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(trained, MAXIMUM_NORM)
        # Rarely a gradient overflows (an activation next to zero under the perceptual norm): leave that step out.
        if bool(torch.isfinite(norm)):
            optimiser.step()
            average.update(network, step + 1)
        return {
            "norm": float(norm),
            "pixel": pixel.item(),
            "lpips": perceptual.item(),
            "divergence": divergence.mean().item(),
        }

    generator_width = generator.config.w_dim
    state = {"network": network, "average": average, "optimiser": optimiser}
    train_loop(step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator)
    finished = average.module
    assert isinstance(finished, Autoencoder)
    if fit:
        fit_mapping(finished, images, seed=settings.seed)
    return finished.requires_grad_(False).eval()


@torch.no_grad()
def code_statistics(network: Autoencoder, images: np.ndarray, *, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Mean [width] and covariance [width,width] of the codes of the first `count` pictures, posterior included."""
    means, variances = [], []
    for start in range(0, min(count, len(images)), 200):
        part = torch.from_numpy(images[start : min(start + 200, count)].copy())
        mean, log_variance = network.encoder(part.permute(0, 3, 1, 2).float() / 127.5 - 1)
        means.append(mean)
        variances.append(log_variance.exp())
    codes = torch.cat(means)
    return codes.mean(0), codes.T.cov() + torch.cat(variances).mean(0).diag()


def fit_mapping(
    network: Autoencoder, images: np.ndarray, *, seed: int, steps: int = MAPPING_STEPS, batch: int = MAPPING_BATCH
) -> float:
    """Fit the mapping network to w = m + L z by least squares; returns the relative squared error left."""
    mean, covariance = code_statistics(network, images)
    root = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(mean)))
    mapping = network.generator.mapping.requires_grad_(True)
    # The mapping's weights are stored divided by its learning rate multiplier; here they shall learn at full rate.
    rate = 2e-3 / network.generator.config.learning_rate_multiplier
    adam = torch.optim.Adam(mapping.parameters(), lr=rate, betas=(0.9, 0.99))
    scale = covariance.diagonal().sum()
    error = torch.zeros(())
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * (1 - step / steps)
        z = torch.randn(batch, len(mean), generator=step_generator(seed, step, stream=77))
        target = mean + normalise(z) @ root.T
        error = (mapping.map_one(z) - target).square().sum(1).mean() / scale
        adam.zero_grad(set_to_none=True)
        error.backward()
        adam.step()
    mapping.requires_grad_(False)
    mapping.w_avg.copy_(mean)
    return float(error.detach())
