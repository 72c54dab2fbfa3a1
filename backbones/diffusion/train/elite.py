"""Training of avatars/elite: a picture to words, then its patches to keys and values (Wei et al. 2023).

Two stages, as in section 3: the global mapping with the keys and values of text, then the local mapping with the
first frozen. In each half of the first stage's steps the text holds all words, in the other the primary one alone,
so that it can stand for itself. The picture that is read and the one that is to be made are two of one person;
the paper, which has no such pairs, takes one picture for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from backbones.diffusion import elite
from backbones.diffusion.attention import UNetProcessor, install, unet_places
from backbones.diffusion.elite import Networks, begin_as_text, cross_shapes, local_attention
from backbones.diffusion.train import common, unet
from backbones.diffusion.train.frozen import load_frozen
from backbones.diffusion.train.networks import export
from backbones.diffusion.train.pairs import Pairs, avatar_pairs
from backbones.diffusion.train.words import Speaker, with_name
from backbones.diffusion.vision import load_vision
from unified.contract.attention import Attending, Attention, Editor, Place
from unified.zoo.descent import Descent
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 3000
BATCH = 24


@dataclass(frozen=True)
class Recipe:
    """first: share of the steps for the global mapping. word, patch: weights of the L1 terms of the words and of the
    local values. hidden: width inside of the mappers.
    """

    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    first: float = 0.6
    word: float = 0.01
    patch: float = 0.001
    empty: float = 0.05
    hidden: int = 64
    half_life: float = 120.0


class Mapped(Editor):
    """Reads text by the networks' own keys and values, and adds the local attention where patches are given."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.said = torch.zeros(0)
        self.patches: Tensor | None = None
        self.local_values: list[Tensor] = []
        self._text = torch.zeros(0)

    def wants(self, place: Place) -> bool:
        return place.kind == "cross"

    def inputs(self, place: Place, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self._text = keys
        return keys, values

    def project(self, call: Attention) -> None:
        number, heads = self.networks.names.index(call.place.name), call.query.shape[1]
        own = (self.networks.whole.keys[number], self.networks.whole.values[number])
        call.key, call.value = (
            functional.linear(self._text, matrix).unflatten(-1, (heads, -1)).transpose(1, 2) for matrix in own
        )

    def output(self, call: Attention, mixed: Tensor) -> Tensor:
        if self.patches is None:
            return mixed
        number, local = self.networks.names.index(call.place.name), self.networks.local
        key, value = (functional.linear(self.patches, part[number]) for part in (local.keys, local.values))
        self.local_values.append(value.abs().mean())
        return mixed + local_attention(call, self.said, key, value)


class EliteLoss(nn.Module):
    """Both stages' losses in one forward call."""

    def __init__(self, networks: Networks, network: Any, speaker: Speaker) -> None:
        super().__init__()
        self.networks, self.unet, self.speaker = networks, network, speaker
        self.attending, self.editor = Attending(), Mapped(networks)
        self.attending.editors.append(self.editor)
        install(network, unet_places(network), UNetProcessor, self.attending)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        texts: list[str],
        states: tuple[Tensor, ...],
        local: bool,
        count: int,
    ) -> tuple[Tensor, Tensor]:
        """(squared error, the L1 term of this stage); count: how many words the name stands for."""
        words = self.networks.words(states)[:, :count]
        text, self.editor.said = self.speaker(texts, words)
        self.editor.patches = self.networks.patches(states) if local else None
        self.editor.local_values = []
        self.attending.begin(timesteps / 1000, (noisy.shape[-2], noisy.shape[-1]))
        output = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
        size = torch.stack(self.editor.local_values).mean() if local else words.abs().mean()
        return (output - noise).square().mean(), size


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
    depth = vision.module.config.num_hidden_layers
    sizes = elite.Sizes(
        tuple(range(depth, -1, -1))[:5], recipe.hidden, vision.module.config.hidden_size, frozen.text_width
    )
    networks = Networks(sizes, cross_shapes(network))
    begin_as_text(networks, network)
    vision.module.to(device)
    frozen.to(device)
    average = ExponentialAverage(networks, half_life=recipe.half_life)
    loss_module = EliteLoss(networks, network, Speaker(frozen.pipeline.text_encoder, frozen.pipeline.tokenizer))
    optimizer = torch.optim.AdamW(common.decay_groups(networks, weight_decay=recipe.weight_decay), lr=1.0)
    wrapped, optimizer = accelerator.prepare(loss_module, optimizer)
    alphas = frozen.pipeline.scheduler.alphas_cumprod
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, networks, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        local = step >= recipe.first * steps
        networks.whole.requires_grad_(not local)
        networks.local.requires_grad_(local)
        references, targets = pairs.draw(batch, generator=generator)
        captions = with_name(pairs.captions(targets, generator=generator), subject)
        texts = common.some_empty(captions, recipe.empty, generator=generator)
        alone = local or float(torch.rand((), generator=generator)) < 0.5
        timesteps = unet.stratified_timesteps(batch, len(alphas), generator=generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        noisy = unet.noised(latents[targets], noise, alphas[timesteps])
        states = vision.layers((pairs.pictures.tensor(references) / 2 + 0.5).to(device))
        error, size = wrapped(
            noisy.to(device),
            timesteps.to(device),
            noise.to(device),
            texts,
            states,
            local,
            1 if alone else len(sizes.layers),
        )
        descend(step, error + (recipe.patch if local else recipe.word) * size)
        return {"error": error.item(), "size": size.item()}

    state = {"networks": networks, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        scores = {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        final = average.module.cpu()
        config = elite.config_of(sizes, f"../{clip.name}")
        export(final, config=config, scores=scores, card=card(final, scores), out=settings.out)


def card(networks: nn.Module, scores: Mapping[str, Any]) -> str:
    """What a user should know about the model, in Markdown."""
    return f"""# avatars/elite

ELITE's global and local mapping of {common.parameters(networks) / 1e6:.2f} M parameters for avatars/stable-diffusion;
they read avatars/clip. Used by the recipe `elite`.

Data: the avatars training split, two pictures of one person each time: one is read, the other is made, and the
caption says what differs (expression, glasses, clothes, background).

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/elite`, after avatars/clip and avatars/stable-diffusion.
"""


def build(settings: BuildSettings) -> None:
    """Builder of avatars/elite; "clip" and "stable-diffusion" are expected beside `settings.out`."""
    train(
        settings,
        pairs=avatar_pairs("train"),
        base=settings.out.parent / "stable-diffusion",
        clip=settings.out.parent / "clip",
    )
