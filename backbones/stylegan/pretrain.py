"""A start for StyleGAN2 training on few processors: the synthesis network first learns to draw descriptions.

Adversarial training from nothing takes hundreds of thousands of pictures before faces are clear. Where every
picture comes with its description, the synthesis network can first be told what to draw (`descriptions`), which
is ordinary regression; the mapping network is then set to turn random z into codes of random descriptions
(`staircase`). The adversarial training that follows is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from backbones.stylegan.descriptions import Describer, Descriptions, level_of_layers
from backbones.stylegan.generator import Generator
from backbones.stylegan.staircase import write_mapping
from unified.metrics.lpips import LPIPS
from unified.zoo.focus import focus_map
from unified.zoo.training import BuildSettings, ExponentialAverage, step_generator, train_loop

LEARNING_RATE = 2e-3
PERCEPTUAL_WEIGHT = 0.5
PERCEPTUAL_PICTURES = 8  # of each batch; the perceptual distance is the dearest part of a step
FOCUS = 0.7  # share of the pixel loss that goes to where the choices show
SPREAD = 0.2  # deviation of the noise on w (whose entries have unit mean square): neighbours draw the same
HALF_LIFE = 100.0  # steps, of the averaged weights
MAXIMUM_NORM = 1.0  # of the gradient


class Illustrator(nn.Module):
    """Describer and generator (of which only the synthesis network is trained here)."""

    def __init__(self, generator: Generator, width: int) -> None:
        super().__init__()
        self.generator = generator
        self.describer = Describer(width, generator.config.w_dim)

    def codes(self, told: Tensor) -> Tensor:
        """Descriptions [N,3,width], one per level -> ws [N,num_ws,w_dim]."""
        ws: Tensor = self.describer(told)[:, level_of_layers(self.generator.config.num_ws)]
        return ws

    def forward(self, told: Tensor, noise: Tensor) -> Tensor:
        """Pictures [N,3,H,W] in about -1..1 of descriptions; noise [N,w_dim] is added to every layer's w."""
        images: Tensor = self.generator.synthesis(self.codes(told) + noise[:, None], noise="none")
        return images


def pretrain(
    generator: Generator,
    data: Descriptions,
    settings: BuildSettings,
    *,
    steps: int,
    batch: int = 16,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    fit: bool = True,
) -> Illustrator:
    """Train `generator`'s synthesis network and set its mapping; returns the averaged networks, frozen.

    Resumes from `settings.work`. perceptual: distance [N] of pictures in 0..1, LPIPS if None. fit: whether the
    mapping is wanted too.
    """
    accelerator = Accelerator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Illustrator(generator, data.width)
    trained = [*network.describer.parameters(), *generator.synthesis.parameters()]
    optimiser = torch.optim.Adam(trained, lr=LEARNING_RATE, betas=(0.5, 0.99), fused=True)
    average = ExponentialAverage(network, half_life=HALF_LIFE)
    wrapped, optimiser = accelerator.prepare(network, optimiser)
    distance = perceptual or LPIPS().to(accelerator.device)
    focus = focus_map(data.images, data.choices.numpy(), side=data.images.shape[1:3], share=FOCUS)
    focus = focus.to(accelerator.device)

    def step_fn(step: int) -> Mapping[str, float]:
        random = step_generator(settings.seed, step, stream=accelerator.process_index)
        chosen = torch.randint(len(data.images), (batch,), generator=random)
        pixels = torch.from_numpy(data.images[chosen.numpy()]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        pixels = pixels.to(accelerator.device)
        told = data.mixed(chosen, random)
        # Half of the pictures from one description for all layers: the w that W inversion and sampling use.
        told[: batch // 2] = data.entries(chosen[: batch // 2])[:, None]
        noise = SPREAD * torch.randn(batch, generator.config.w_dim, generator=random)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100, max(0.02, 2 * (1 - step / steps)))
        made = wrapped(told.to(accelerator.device), noise.to(accelerator.device))
        some = slice(0, None, max(1, batch // PERCEPTUAL_PICTURES))
        apart = distance(made[some] / 2 + 0.5, pixels[some] / 2 + 0.5).mean()
        gap = made - pixels
        pixel = ((gap.abs() + gap.square()) * focus).mean()
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(pixel + PERCEPTUAL_WEIGHT * apart)
        norm = accelerator.clip_grad_norm_(trained, MAXIMUM_NORM)
        # Rarely a gradient overflows (an activation next to zero under the perceptual norm): leave that step out.
        if bool(torch.isfinite(norm)):
            optimiser.step()
            average.update(network, step + 1)
        return {"norm": float(norm), "pixel": pixel.item(), "lpips": apart.item()}

    state = {"network": network, "average": average, "optimiser": optimiser}
    train_loop(step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator)
    finished = average.module
    assert isinstance(finished, Illustrator)
    if fit:
        write_mapping(finished.generator.mapping, finished.describer, data)
    return finished.requires_grad_(False).eval()
