"""Training of avatars/stable-diffusion: text to 64x64 pictures with the parts of Stable Diffusion 1.5.

Latent diffusion (Rombach et al. 2022): epsilon prediction on the latents of the shared autoencoder, with the
betas of SD 1.5 and classifier-free guidance (Ho & Salimans 2021). The text encoder starts from avatars/clip
and is trained with the UNet, as in the first latent diffusion models: contrastive features need not keep what
makes no difference between the pictures of a batch, and eyes and mouths are small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from backbones.diffusion.train import autoencoder as autoencoder_training
from backbones.diffusion.train import clip as clip_training
from backbones.diffusion.train import common
from backbones.diffusion.train.agreement import agreement
from backbones.diffusion.train.common import Pictures
from unified.errors import UserError
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 3000
BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """Channels at each resolution, from the latents' own downwards; `attention` says where text is read."""

    channels: tuple[int, ...] = (64, 128)
    attention: tuple[bool, ...] = (False, True)
    layers: int = 1
    heads: int = 4
    groups: int = 32


@dataclass(frozen=True)
class Recipe:
    """How the UNet and the text encoder are trained.

    text_factor: learning rate of the text encoder as a part of the UNet's.
    focus: share of the loss that goes to where the attributes show (see `focus`); 0 is the plain loss.
    empty: share of captions replaced by the empty one, for guidance.
    snr_limit: gamma of min-SNR weighting (Hang et al. 2023, section 3.4); infinity is the plain loss.
    """

    learning_rate: float = 7e-4
    text_factor: float = 1.0
    focus: float = 0.6
    warmup: int = 100
    weight_decay: float = 0.01
    empty: float = 0.1
    snr_limit: float = 5.0
    half_life: float = 120.0


def make_scheduler() -> DDIMScheduler:
    """The noise levels and sampling settings of SD 1.5."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def make_model(*, text_width: int, latent: int = 4, side: int = 16, sizes: Sizes = Sizes()) -> UNet2DConditionModel:
    """A randomly initialised UNet2DConditionModel for latents [B, latent, side, side]."""
    down = ["CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in sizes.attention]
    up = ["CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(sizes.attention)]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latent,
        out_channels=latent,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=text_width,
        # Diffusers reads this as the number of heads.
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.groups,
    )


def text_encoder_of(model: CLIPModel) -> CLIPTextModel:
    """A CLIPTextModel with a copy of the text tower of `model`."""
    encoder = CLIPTextModel(model.config.text_config)
    encoder.load_state_dict(model.text_model.state_dict())
    return encoder


def min_snr_weights(alphas: Tensor, *, limit: float) -> Tensor:
    """Loss weights min(SNR, limit) / SNR of epsilon prediction at cumulative alphas in 0..1 (same shape)."""
    ratio = alphas / (1 - alphas)
    return ratio.clamp(max=limit) / ratio


def stratified_timesteps(batch: int, levels: int, *, generator: torch.Generator) -> Tensor:
    """Timesteps int64 [batch], each uniform on 0..levels-1 and together evenly spread: less noisy losses."""
    offsets = torch.rand(batch, generator=generator)
    places = torch.randperm(batch, generator=generator)
    return ((places + offsets) * levels / batch).long().clamp(max=levels - 1)


def noised(latents: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """sqrt(alpha) latents + sqrt(1 - alpha) noise (Ho et al. 2020, equation 4); alphas [N], cumulated."""
    level = alphas.view(-1, 1, 1, 1)
    return level.sqrt() * latents + (1 - level).sqrt() * noise


class DenoisingLoss(nn.Module):
    """Text encoder and UNet in one forward call, so that distributed training averages the gradients."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, focus: Tensor) -> None:
        """focus [h,w]: weight of the squared error at each place of the latents, 1 on average."""
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.register_buffer("focus", focus, persistent=False)

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, ids: Tensor, alphas: Tensor) -> Tensor:
        """Squared error [B] of the predicted noise, a mean over the latents' elements under `focus`.

        latents, noise [B,4,h,w]; timesteps [B]; ids [B,L]; alphas [B], cumulative, at the timesteps.
        """
        noisy = noised(latents, noise, alphas)
        text = self.text_encoder(input_ids=ids).last_hidden_state
        error = (self.unet(noisy, timesteps, encoder_hidden_states=text).sample - noise).square()
        return (error * self.focus).mean((1, 2, 3))


def cached_latents(model: AutoencoderKL, pictures: Pictures, *, work: Path) -> Tensor:
    """Scaled latents float [N,4,h,w] of all pictures, computed once for an autoencoder and kept in `work`."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    path = work / f"latents-{len(pictures)}-{digest.hexdigest()[:16]}.safetensors"
    if not path.exists():
        latents = autoencoder_training.encode(model.eval(), pictures) * model.config.scaling_factor
        work.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        save_file({"latents": latents.half().contiguous()}, temporary)
        temporary.replace(path)
    return load_file(path)["latents"].float()


def train(
    settings: BuildSettings,
    *,
    pictures: Pictures,
    validation: Pictures,
    clip: Path,
    autoencoder: Path,
    sizes: Sizes = Sizes(),
    recipe: Recipe = Recipe(),
) -> None:
    """Train (or go on training) and export a StableDiffusionPipeline folder to `settings.out`.

    clip, autoencoder: the folders of the finished avatars/clip and avatars/autoencoder.
    """
    for folder, name in ((clip, "avatars/clip"), (autoencoder, "avatars/autoencoder")):
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} holds no finished model; build {name} first (unified zoo build {name}).")
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    tokenizer = CLIPTokenizer.from_pretrained(clip, local_files_only=True)
    contrastive = CLIPModel.from_pretrained(clip, local_files_only=True, dtype=torch.float32).eval()
    decoder = AutoencoderKL.from_pretrained(autoencoder, local_files_only=True).eval()
    latents = cached_latents(decoder, pictures, work=settings.work)
    torch.manual_seed(settings.seed)
    text_encoder = text_encoder_of(contrastive)
    width = contrastive.config.text_config.hidden_size
    unet = make_model(text_width=width, latent=latents.shape[1], side=latents.shape[2], sizes=sizes)
    focus = focus_map(pictures.images, pictures.labels, side=(latents.shape[2], latents.shape[3]), share=recipe.focus)
    model = DenoisingLoss(unet, text_encoder, focus).train()
    accelerator = Accelerator()
    device = accelerator.device
    average = ExponentialAverage(model, half_life=recipe.half_life)
    average.module.to(device)
    optimizer = torch.optim.AdamW(
        common.decay_groups(unet, weight_decay=recipe.weight_decay)
        + common.decay_groups(text_encoder, weight_decay=recipe.weight_decay, factor=recipe.text_factor),
        lr=1.0,
    )
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    alphas = make_scheduler().alphas_cumprod
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, model, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        indices = common.draw(pictures, batch, generator=generator)
        captions = pictures.captions(indices, generator=generator)
        texts = common.some_empty(captions, recipe.empty, generator=generator)
        timesteps = stratified_timesteps(batch, len(alphas), generator=generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        levels = alphas[timesteps]
        errors = wrapped(
            latents[indices].to(device),
            noise.to(device),
            timesteps.to(device),
            clip_training.tokenize(tokenizer, texts, full=True).to(device),
            levels.to(device),
        )
        loss = (errors * min_snr_weights(levels, limit=recipe.snr_limit).to(device)).mean()
        descend(step, loss)
        return {"weighted": loss.item(), "error": errors.mean().item()}

    state = {"model": model, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        final: Any = average.module.cpu().eval()
        pipeline = make_pipeline(final.unet, final.text_encoder, tokenizer=tokenizer, autoencoder=decoder)
        scores = evaluate(pipeline, contrastive, pictures, validation)
        scores |= {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        export(pipeline, scores, validation=validation, out=settings.out)


def make_pipeline(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    *,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
) -> StableDiffusionPipeline:
    """The complete pipeline, without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int = 25,
    guidance: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Pictures [N,3,H,W] in -1..1, one per prompt, each from a seed of its own."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    side = pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    output = pipeline(
        list(prompts),
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        output_type="pt",
    )
    return output.images.float() * 2 - 1


def evaluate(
    pipeline: StableDiffusionPipeline,
    judge: CLIPModel,
    pictures: Pictures,
    validation: Pictures,
    *,
    samples: int = 64,
    guidance: float = 3.0,
) -> dict[str, Any]:
    """How often the model draws what it is asked for; see `agreement`."""
    found = agreement(
        lambda prompts, seed: sample(pipeline, prompts, guidance=guidance, seed=seed),
        judge,
        pipeline.tokenizer,
        pictures=pictures,
        validation=validation,
        samples=samples,
    )
    return found | {"guidance": guidance}


def export(pipeline: StableDiffusionPipeline, scores: Mapping[str, Any], *, validation: Pictures, out: Path) -> None:
    """Write the folder that StableDiffusionPipeline.from_pretrained loads, in half precision."""
    indices = torch.arange(min(12, len(validation)))
    captions = validation.captions(indices, generator=common.batch_generator(0, 0, stream=9))
    images = sample(pipeline, captions)
    autoencoder = common.halved(pipeline.vae)
    autoencoder.register_to_config(_name_or_path="")  # the folder it was read from stays out of the model's files
    stored = make_pipeline(
        common.halved(pipeline.unet),
        common.halved(pipeline.text_encoder),
        tokenizer=pipeline.tokenizer,
        autoencoder=autoencoder,
    )
    with common.replacing(out) as folder:
        stored.save_pretrained(folder)
        common.declare_float32(folder / "text_encoder" / "config.json")
        common.write_scores(folder, scores)
        both = torch.cat([validation.tensor(indices), images]) / 2 + 0.5
        save_sheet(folder / "samples.png", both, columns=len(indices), scale=2)
        (folder / "card.md").write_text(card(pipeline, scores, captions), encoding="utf-8")


def card(pipeline: StableDiffusionPipeline, scores: Mapping[str, Any], captions: Sequence[str]) -> str:
    """What a user should know about the model, in Markdown."""
    real = scores["judge_on_real_pictures"]
    rows = [(n, f"{100 * a:.0f} %", f"{100 * real[n]:.0f} %") for n, a in scores["agreement"].items()]
    sizes = {
        "UNet": pipeline.unet,
        "text encoder": pipeline.text_encoder,
        "autoencoder": pipeline.vae,
    }
    parts = ", ".join(f"{name} {common.parameters(part) / 1e6:.2f} M" for name, part in sizes.items())
    lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
    return f"""# avatars/stable-diffusion

A StableDiffusionPipeline for 64x64 avatars with the noise levels of SD 1.5, epsilon prediction and a DDIM
scheduler. Guidance about 3, 25 steps or more. Parameters: {parts}.

The autoencoder is avatars/autoencoder. The text encoder starts from avatars/clip and was trained together
with the UNet, since contrastive features lose small attributes (eyes, brows, mouth); its features are
therefore no longer those of avatars/clip.

Data: the avatars training split, captions drawn anew each step, one in ten empty. Min-SNR weighting with
gamma 5 (Hang et al. 2023), AdamW, exponential average of the weights.

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/stable-diffusion`, after avatars/clip and avatars/autoencoder.

{scores["samples"]} samples with guidance {scores["guidance"]}, each asked for one value of one attribute; how
often {scores["judge"]}, finds that value, and how often it names real pictures rightly:

{common.table(("attribute", "in samples", "on real pictures"), rows)}

`samples.png`: pictures of the validation split above, samples from their captions below:

{lines}
"""


def build(settings: BuildSettings) -> None:
    """Builder of avatars/stable-diffusion; "clip" and "autoencoder" are expected beside `settings.out`."""
    train(
        settings,
        pictures=common.avatars("train"),
        validation=common.avatars("validation"),
        clip=settings.out.parent / "clip",
        autoencoder=settings.out.parent / "autoencoder",
    )
