"""Training of avatars/ip-adapter: pictures as a second prompt of avatars/stable-diffusion (Ye et al. 2023).

The "plus" variant: a resampler turns the patches of avatars/clip into a few tokens, and every cross-attention gets
keys and values for them. The base stays frozen. The picture that is read and the one that is to be made are two of
the same person, and the caption says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from backbones.diffusion.ip_adapter import normalised
from backbones.diffusion.train import common, unet
from backbones.diffusion.train.frozen import Frozen, load_frozen
from backbones.diffusion.train.ip_adapter_file import export, official_names
from backbones.diffusion.train.pairs import Pairs, avatar_pairs
from unified.zoo.descent import Descent
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 2500
BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """Tokens a picture becomes; width of the resampler, whose four layers have `heads` heads of 64."""

    tokens: int = 8
    width: int = 96
    heads: int = 1


@dataclass(frozen=True)
class Recipe:
    """empty: share of rows without text, without picture, and without both, each."""

    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    empty: float = 0.05
    half_life: float = 120.0


class Adapter(nn.Module):
    """What is trained, and nothing of the UNet that reads it.

    projection: features to tokens. matrices: the processors of the cross-attentions, with K' and V' each.
    """

    def __init__(self, projection: nn.Module, matrices: Sequence[nn.Module]) -> None:
        super().__init__()
        self.projection = projection
        self.matrices = nn.ModuleList(matrices)


def attach(frozen: Frozen, sizes: Sizes) -> Adapter:
    """Put a new adapter into the UNet by diffusers' own loader; K' and V' begin as the text's."""
    network = frozen.pipeline.unet
    projection = IPAdapterPlusImageProjection(
        embed_dims=frozen.vision.config.hidden_size,
        output_dims=frozen.text_width,
        hidden_dims=sizes.width,
        heads=sizes.heads,
        num_queries=sizes.tokens,
    )
    matrices = {}
    for number, name in enumerate(network.attn_processors):
        if name.endswith("attn2.processor"):
            attention = network.get_submodule(name.removesuffix(".processor"))
            matrices[f"{number}.to_k_ip.weight"] = attention.to_k.weight
            matrices[f"{number}.to_v_ip.weight"] = attention.to_v.weight
    state = {"image_proj": official_names(projection.state_dict()), "ip_adapter": matrices}
    network._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    adapter = Adapter(network.encoder_hid_proj.image_projection_layers[0], _processors(network))
    return adapter.train().requires_grad_(True)


def _processors(network: Any) -> list[Any]:
    return [p for name, p in network.attn_processors.items() if name.endswith("attn2.processor")]


class PicturePromptLoss(nn.Module):
    """Denoising error of the adapted UNet, in one forward call."""

    def __init__(self, frozen: Frozen, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        self.unet = frozen.pipeline.unet

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        """Squared error [B]; features [B, patches, width] of the reference pictures."""
        added = {"image_embeds": [features.unsqueeze(1)]}
        output = self.unet(noisy, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample
        error: Tensor = (output - noise).square().mean((1, 2, 3))
        return error


def features_of(frozen: Frozen, images: Tensor) -> Tensor:
    """Patches [B, patches, width] of the last layer but one, for pictures in -1..1."""
    pixels = normalised(images / 2 + 0.5, frozen.vision.config.image_size)
    with torch.no_grad():
        output: Tensor = frozen.vision(pixels, output_hidden_states=True).hidden_states[-2]
    return output


def without(features: Tensor, absent: Tensor, rows: Tensor) -> Tensor:
    """The features with those of no picture in the chosen rows, bool [B]."""
    return torch.where(rows[:, None, None].to(features.device), absent, features)


def nothing(frozen: Frozen) -> Tensor:
    """The features [1, patches, width] of no picture: of one that is 0 after normalisation, as diffusers has it."""
    side = frozen.vision.config.image_size
    with torch.no_grad():
        zeros = torch.zeros(1, 3, side, side, device=frozen.pipeline.device)
        output: Tensor = frozen.vision(zeros, output_hidden_states=True).hidden_states[-2]
    return output


def train(
    settings: BuildSettings,
    *,
    pairs: Pairs,
    validation: Pairs,
    base: Path,
    clip: Path,
    sizes: Sizes = Sizes(),
    recipe: Recipe = Recipe(),
) -> None:
    """Train (or go on training) and export an adapter of the official layout to `settings.out`."""
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    accelerator = Accelerator()
    device = accelerator.device
    frozen = load_frozen(base=base, clip=clip)
    latents = unet.cached_latents(frozen.pipeline.vae, pairs.pictures, work=settings.work)
    torch.manual_seed(settings.seed)
    adapter = attach(frozen, sizes)
    frozen = frozen.to(device)
    average = ExponentialAverage(adapter, half_life=recipe.half_life)
    loss_module = PicturePromptLoss(frozen, adapter)
    optimizer = torch.optim.AdamW(common.decay_groups(adapter, weight_decay=recipe.weight_decay), lr=1.0)
    wrapped, optimizer = accelerator.prepare(loss_module, optimizer)
    alphas = frozen.pipeline.scheduler.alphas_cumprod
    absent = nothing(frozen)
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, adapter, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        references, targets = pairs.draw(batch, generator=generator)
        captions = pairs.captions(targets, generator=generator)
        left_out = (torch.rand(batch, generator=generator) / recipe.empty).long()  # 0 text, 1 picture, 2 both
        texts = ["" if part in (0, 2) else text for text, part in zip(captions, left_out.tolist(), strict=True)]
        features = features_of(frozen, pairs.pictures.tensor(references).to(device))
        features = without(features, absent, (left_out == 1) | (left_out == 2))
        timesteps = unet.stratified_timesteps(batch, len(alphas), generator=generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        noisy = unet.noised(latents[targets], noise, alphas[timesteps])
        error = wrapped(
            noisy.to(device), timesteps.to(device), frozen.text(texts).to(device), features, noise.to(device)
        ).mean()
        descend(step, error)
        return {"error": error.item()}

    state = {"adapter": adapter, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        adapter.load_state_dict(average.module.state_dict())
        adapter.eval()
        scores = evaluate(frozen, validation)
        scores |= {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        export(frozen, adapter, scores, out=settings.out)


@torch.no_grad()
def sample(frozen: Frozen, references: Tensor, prompts: Sequence[str], *, steps: int = 25, seed: int = 0) -> Tensor:
    """Pictures [N,3,H,W] in -1..1 of `prompts` with the reference pictures (in -1..1) as second prompt, guidance 3."""
    pipeline = frozen.pipeline
    features = features_of(frozen, references)
    both = torch.cat([nothing(frozen).expand_as(features), features]).unsqueeze(1)
    side = pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    output = pipeline(
        list(prompts),
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(len(prompts))],
        ip_adapter_image_embeds=[both],
        output_type="pt",
    )
    images: Tensor = output.images.float() * 2 - 1
    return images


@torch.no_grad()
def evaluate(frozen: Frozen, validation: Pairs, *, people: int = 24, prompt: str = "a person") -> dict[str, Any]:
    """How often a sample's CLIP embedding is nearest to its own reference's, among as many people; chance is 1 / N."""
    references = validation.pictures.tensor(validation.people(people)).to(frozen.pipeline.device)
    images = sample(frozen, references, [prompt] * len(references))

    def embeddings(pictures: Tensor) -> Tensor:
        pixels = normalised(pictures / 2 + 0.5, frozen.vision.config.image_size)
        return nn.functional.normalize(frozen.vision(pixels).image_embeds, dim=1)

    likeness = embeddings(images) @ embeddings(references).T
    own = likeness.argmax(1) == torch.arange(len(likeness), device=likeness.device)
    return {"nearest_to_own_reference": round(own.float().mean().item(), 3), "people": len(references)}


def build(settings: BuildSettings) -> None:
    """Builder of avatars/ip-adapter; "clip" and "stable-diffusion" are expected beside `settings.out`."""
    train(
        settings,
        pairs=avatar_pairs("train"),
        validation=avatar_pairs("validation"),
        base=settings.out.parent / "stable-diffusion",
        clip=settings.out.parent / "clip",
    )
