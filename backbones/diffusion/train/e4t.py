"""Training of avatars/e4t: pictures to words near "person", with offsets of the attention's weights (Gal et al. 2023).

The encoder reads one picture of a person and the UNet's features of it under the empty prompt; another picture of the
person is to be made, and the caption says what differs. The paper, which has no such pairs, takes one picture for
both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from backbones.diffusion import e4t
from backbones.diffusion.e4t import Networks, pooled_features
from backbones.diffusion.train import common, unet
from backbones.diffusion.train.frozen import load_frozen
from backbones.diffusion.train.networks import export
from backbones.diffusion.train.pairs import Pairs, avatar_pairs
from backbones.diffusion.train.words import Speaker, with_name
from backbones.diffusion.vision import load_vision
from unified.contract.shadow import compute_parameter, pristine_tensor
from unified.zoo.descent import Descent
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 2500
BATCH = 24


@dataclass(frozen=True)
class Recipe:
    """strength, penalty: of the word's offset, as in the space `e4t` (0.1 and 0.01 in the paper).

    A word of avatars/stable-diffusion that holds a person is several times as long as the class word; the paper's
    penalty kept the offset at a tenth of it, and no person was held.
    """

    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    strength: float = 0.1
    penalty: float = 1e-4
    empty: float = 0.05
    half_life: float = 120.0


class WordLoss(nn.Module):
    """The denoising error with the predicted word and the weight offsets, in one forward call."""

    def __init__(self, networks: Networks, network: Any, speaker: Speaker, row: Tensor, strength: float) -> None:
        super().__init__()
        self.networks, self.unet, self.speaker, self.strength = networks, network, speaker, strength
        self.register_buffer("row", row, persistent=False)
        for number, path in enumerate(networks.offsets.paths):
            change = _offset(networks, number)
            compute_parameter(network, path, pristine_tensor(network, path), [change])

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        texts: list[str],
        states: tuple[Tensor, ...],
        features: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(squared error, squared length of the words' offsets); features [B, unet] of the reference pictures."""
        offset = self.strength * self.networks.encoder(states, features)
        text, _ = self.speaker(texts, (self.row + offset).unsqueeze(1))
        output = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
        return (output - noise).square().mean(), offset.square().sum(1).mean()


def _offset(networks: Networks, number: int) -> Callable[[Tensor], Tensor]:
    return lambda base: base * (1 + networks.offsets.of(number))


def train(
    settings: BuildSettings,
    *,
    pairs: Pairs,
    base: Path,
    clip: Path,
    subject: str = "a person",
    recipe: Recipe = Recipe(),
) -> None:
    """Train (or go on training) and export the networks to `settings.out`, with `clip` named relative to it."""
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    accelerator = Accelerator()
    device = accelerator.device
    frozen = load_frozen(base=base, clip=clip)
    vision = load_vision(clip)
    network = frozen.pipeline.unet
    latents = unet.cached_latents(frozen.pipeline.vae, pairs.pictures, work=settings.work)
    torch.manual_seed(settings.seed)
    speaker = Speaker(frozen.pipeline.text_encoder, frozen.pipeline.tokenizer)
    nothing = frozen.text([""])
    with torch.no_grad():
        probe = pooled_features(network, latents[:1], torch.zeros(1), nothing)
    config = vision.module.config
    row = speaker.class_row(subject.removeprefix("a "))
    sizes = e4t.Sizes(config.num_hidden_layers + 1, config.hidden_size, probe.shape[1], row.shape[1])
    networks = Networks(sizes, network)
    vision.module.to(device)
    frozen.to(device)
    average = ExponentialAverage(networks, half_life=recipe.half_life)
    loss_module = WordLoss(networks, network, speaker, row, recipe.strength)
    optimizer = torch.optim.AdamW(common.decay_groups(networks, weight_decay=recipe.weight_decay), lr=1.0)
    wrapped, optimizer = accelerator.prepare(loss_module, optimizer)
    alphas = frozen.pipeline.scheduler.alphas_cumprod
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, networks, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        references, targets = pairs.draw(batch, generator=generator)
        captions = with_name(pairs.captions(targets, generator=generator), subject)
        texts = common.some_empty(captions, recipe.empty, generator=generator)
        timesteps = unet.stratified_timesteps(batch, len(alphas), generator=generator)
        noise, other = torch.randn(2, batch, *latents.shape[1:], generator=generator)
        noisy = unet.noised(latents[targets], noise, alphas[timesteps])
        seen = unet.noised(latents[references], other, alphas[timesteps])
        states = vision.layers((pairs.pictures.tensor(references) / 2 + 0.5).to(device))
        with torch.no_grad():
            text = nothing.to(device).expand(batch, -1, -1)
            features = pooled_features(network, seen.to(device), timesteps.to(device), text)
        error, length = wrapped(noisy.to(device), timesteps.to(device), noise.to(device), texts, states, features)
        descend(step, error + recipe.penalty * length)
        return {"error": error.item(), "length": length.item()}

    state = {"networks": networks, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        scores = {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        final = average.module.cpu()
        described = e4t.config_of(sizes, f"../{clip.name}")
        export(final, config=described, scores=scores, card=card(final, scores), out=settings.out)


def card(networks: nn.Module, scores: Mapping[str, Any]) -> str:
    """What a user should know about the model, in Markdown."""
    return f"""# avatars/e4t

E4T's encoder and weight offsets of {common.parameters(networks) / 1e6:.2f} M parameters for avatars/stable-diffusion;
the encoder reads avatars/clip and the UNet's own features. Used by the recipe `e4t`.

Data: the avatars training split, two pictures of one person each time: one is read, the other is made, and the
caption says what differs (expression, glasses, clothes, background).

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/e4t`, after avatars/clip and avatars/stable-diffusion.
"""


def build(settings: BuildSettings) -> None:
    """Builder of avatars/e4t; "clip" and "stable-diffusion" are expected beside `settings.out`."""
    train(
        settings,
        pairs=avatar_pairs("train"),
        base=settings.out.parent / "stable-diffusion",
        clip=settings.out.parent / "clip",
    )
