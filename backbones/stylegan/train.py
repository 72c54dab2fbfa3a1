"""Training of StyleGAN2 on the avatars, as `unified zoo build` runs it.

Karras et al. 2020 at 64x64: non-saturating logistic loss, lazy R1 and path-length regularisation, style
mixing, averaged generator. One deviation that saves a forward pass: both players' turns use the same latents
in a step, so the discriminator learns on the (detached) pictures that the generator is then judged on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

from backbones.stylegan.config import DiscriminatorConfig, GeneratorConfig
from backbones.stylegan.descriptions import COARSE, FINE, MIDDLE, Descriptions
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.tensors import save_networks
from backbones.stylegan.generator import Generator
from backbones.stylegan.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from backbones.stylegan.pretrain import Illustrator, pretrain
from unified.errors import UserError
from unified.zoo.sheet import save_sheet
from unified.zoo.training import CHECKPOINT, BuildSettings, ExponentialAverage, step_generator, train_loop

DEFAULT_STEPS = 1500
DEFAULT_BATCH = 16
CHANNELS = (128, 128, 96, 48, 24)
DISCRIMINATOR_CHANNELS = (128, 128, 64, 32, 16)
#: The level of the synthesis network that decides an attribute of the avatars.
LEVELS = (
    dict.fromkeys(("hair", "facial_hair", "clothes"), COARSE)
    | dict.fromkeys(("glasses", "eyes", "brows", "mouth"), MIDDLE)
    | dict.fromkeys(("skin", "hair_colour", "clothes_colour", "background"), FINE)
)


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    r1_gamma: None takes 0.0002 resolution^2 / batch (the official heuristic). Intervals are in steps;
    0 switches the regulariser off. half_life: of the averaged generator, in pictures.
    generator_factor: the generator's learning rate as a part of the discriminator's (Heusel et al. 2017).
    pretraining: steps in which the synthesis network learns to draw descriptions (see `pretrain`); 0: none.
    head_start: steps in which the discriminator learns alone, so that a pretrained generator is not led by
    one that knows nothing yet.
    anchor: weight of the reconstruction (L1 + squared error) of a few pictures from the codes of their
    descriptions: it keeps every hair style drawable while the samples sharpen.
    anchored: how many pictures of each step.
    """

    generator: GeneratorConfig = field(
        default_factory=lambda: GeneratorConfig(64, CHANNELS, w_dim=256, z_dim=256, mapping_layers=4)
    )
    discriminator: DiscriminatorConfig = field(default_factory=lambda: DiscriminatorConfig(64, DISCRIMINATOR_CHANNELS))
    batch: int = DEFAULT_BATCH
    learning_rate: float = 0.0025
    generator_factor: float = 1.0
    r1_gamma: float | None = None
    r1_interval: int = 16
    path_weight: float = 2.0
    path_interval: int = 8
    path_decay: float = 0.01
    style_mixing: float = 0.9
    half_life: float = 10_000.0
    pretraining: int = 0
    head_start: int = 0
    anchor: float = 0.0
    anchored: int = 8

    @property
    def gamma(self) -> float:
        return 0.0002 * self.generator.resolution**2 / self.batch if self.r1_gamma is None else self.r1_gamma


class Pictures:
    """Training pictures, uint8 [N, H, W, 3]; batches are pure functions of the generator."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        if images.ndim != 4 or images.dtype != np.uint8:
            raise UserError(f"Training pictures are {images.dtype} {images.shape}; expected uint8 [N, H, W, channels].")

    def choose(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices int64 [count]."""
        return torch.randint(len(self.images), (count,), generator=generator)

    def take(self, indices: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in -1..1, channels last in memory."""
        return torch.from_numpy(self.images[indices.numpy()]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class MixingGenerator(nn.Module):
    """The generator's training pass as one forward, so that it can be wrapped for several devices."""

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        z: Tensor,
        other: Tensor,
        crossover: Tensor,
        generator: torch.Generator,
        codes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Layers from `crossover` [N] on take the w of `other`. Returns (pictures, ws).

        codes: [M, num_ws, w_dim] more pictures, drawn from these ws; they come after the N.
        """
        mapping = self.network.mapping
        w, w_other = mapping.map_one(torch.cat([z, other])).chunk(2)
        mapping.track(w)
        later = torch.arange(self.network.config.num_ws, device=z.device) >= crossover[:, None]
        ws = torch.where(later[..., None], w_other[:, None], w[:, None])
        if codes is not None:
            ws = torch.cat([ws, codes])
        return self.network.synthesis(ws, noise="random", generator=generator), ws


class Trainer:
    """The networks, optimisers and one training step."""

    def __init__(self, recipe: Recipe, pictures: Pictures, *, seed: int, accelerator: Accelerator) -> None:
        if recipe.batch % 4:
            raise UserError(f"batch {recipe.batch}: expected a multiple of 4, the group of the minibatch deviation.")
        self.recipe, self.pictures, self.seed, self.accelerator = recipe, pictures, seed, accelerator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(recipe.generator)
            self.discriminator = Discriminator(recipe.discriminator)
        self.start: Start | None = None
        self.path = PathMean()
        self.players = accelerator.prepare(
            MixingGenerator(self.generator),
            self.discriminator,
            _adam(
                self.generator,
                recipe.learning_rate * recipe.generator_factor,
                recipe.path_interval if recipe.path_weight else 0,
            ),
            _adam(self.discriminator, recipe.learning_rate, recipe.r1_interval),
        )
        self.path.to(accelerator.device)
        self.average = ExponentialAverage(self.generator, half_life=recipe.half_life / self._pictures_per_step)

    @property
    def _pictures_per_step(self) -> int:
        return self.recipe.batch * self.accelerator.num_processes

    @property
    def state(self) -> dict[str, object]:
        """What a checkpoint holds."""
        _, _, optimiser_g, optimiser_d = self.players
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "optimiser_g": optimiser_g,
            "optimiser_d": optimiser_d,
            "path": self.path,
        }

    def step(self, step: int) -> Mapping[str, float]:
        """One turn of both players; what is random depends on (seed, step, process) alone."""
        recipe = self.recipe
        generate, discriminate, optimiser_g, optimiser_d = self.players
        random = step_generator(self.seed, step, stream=self.accelerator.process_index)
        device = self.accelerator.device
        chosen = self.pictures.choose(recipe.batch, random)
        real = self.pictures.take(chosen).to(device)

        anchored, codes = real[:0], None
        if self.start is not None and recipe.anchor:
            anchored = real[: recipe.anchored]
            codes = self.start.codes(chosen[: recipe.anchored], random)
        made, _ = generate(*self._latents(recipe.batch, random), random, codes)
        fake, redrawn = made.split([recipe.batch, len(anchored)])

        # The discriminator's turn. Real and fake alternate, so that the groups of the minibatch deviation
        # (every (2 batch / 4)-th picture) are all real or all fake.
        self.discriminator.requires_grad_(True)
        pairs = torch.stack([real, fake.detach()], dim=1).flatten(0, 1)
        real_logits, fake_logits = discriminate(pairs).view(-1, 2).unbind(1)
        loss_d = discriminator_loss(real_logits, fake_logits).mean()
        self._update(loss_d, optimiser_d)
        log = {"loss_d": loss_d.item(), "real": real_logits.mean().item(), "fake": fake_logits.mean().item()}

        if recipe.r1_interval and step % recipe.r1_interval == 0:
            inputs = real.requires_grad_(True)
            penalty = r1_penalty(discriminate(inputs), inputs).mean()
            self._update(penalty * (recipe.gamma / 2 * recipe.r1_interval), optimiser_d)
            self.path.r1.fill_(penalty.item())

        if step < recipe.head_start:
            return log | {"loss_g": 0.0, "r1": self.path.r1.item(), "path": self.path.mean.item()}

        # The generator's turn, on the pictures it has just drawn.
        self.discriminator.requires_grad_(False)
        loss_g = generator_loss(discriminate(fake)).mean()
        gap = redrawn - anchored.detach()
        anchor = gap.abs().mean() + gap.square().mean() if len(gap) else fake.new_zeros(())
        self._update(loss_g + recipe.anchor * anchor, optimiser_g)
        log["anchor"] = anchor.item()

        if recipe.path_weight and recipe.path_interval and step % recipe.path_interval == 0:
            images, ws = generate(*self._latents(recipe.batch // 2, random), random)
            lengths = path_lengths(images, ws, generator=random)
            mean = self.path.update(lengths.detach().mean(), recipe.path_decay)
            penalty = (lengths - mean).square().mean()
            self._update(penalty * (recipe.path_weight * recipe.path_interval), optimiser_g)

        self.average.update(self.generator, step + 1)
        log |= {"loss_g": loss_g.item(), "r1": self.path.r1.item(), "path": self.path.mean.item()}
        if not all(value == value for value in log.values()):
            raise UserError(f"Training diverged at step {step}: {log}. Lower the learning rate or raise r1_gamma.")
        return log

    def _latents(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        config, device = self.recipe.generator, self.accelerator.device
        z, other = torch.randn(2, count, config.z_dim, generator=random)
        crossover = torch.randint(1, config.num_ws, (count,), generator=random)
        mixed = torch.rand(count, generator=random) < self.recipe.style_mixing
        crossover = torch.where(mixed, crossover, config.num_ws)
        return z.to(device), other.to(device), crossover.to(device)

    def _update(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        optimiser.step()


@dataclass(frozen=True)
class Start:
    """What a pretrained generator began with."""

    illustrator: Illustrator
    data: Descriptions

    def codes(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """ws [N, num_ws, w_dim] of pictures: half of them with every level's other parts from other pictures."""
        told = self.data.mixed(indices, generator)
        told[::2] = self.data.entries(indices[::2])[:, None]
        device = next(self.illustrator.describer.parameters()).device
        return self.illustrator.codes(told.to(device))


class PathMean(nn.Module):
    """The running mean of path lengths, and the last R1 penalty for the log."""

    mean: Tensor
    r1: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("r1", torch.zeros(()))

    @torch.no_grad()
    def update(self, value: Tensor, decay: float) -> Tensor:
        self.mean.lerp_(value.to(self.mean), decay)
        return self.mean.clone()


def _adam(network: nn.Module, learning_rate: float, interval: int) -> torch.optim.Adam:
    """Adam(0, 0.99), corrected for lazy regularisation (Karras et al. 2020, appendix B): with a second
    update each `interval` steps, rate and decay are set so that `interval` steps have the same effect."""
    ratio = interval / (interval + 1) if interval else 1.0
    return torch.optim.Adam(
        network.parameters(), lr=learning_rate * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=True
    )


def avatars() -> Descriptions:
    """The avatars' training split: hair, beard and clothes coarse, the face middle, colours fine."""
    from unified.avatars import dataset
    from unified.avatars.attributes import ATTRIBUTES

    data = dataset.load("train")
    names = list(ATTRIBUTES)
    choices = torch.from_numpy(np.array(data.attributes))
    # Where no hair is to be seen its colour is free: any, so that every head can be given hair of any colour.
    colour = names.index("hair_colour")
    none = ATTRIBUTES["hair_colour"].index("none")
    hidden = choices[:, colour] == none
    others = torch.tensor([value for value in range(len(ATTRIBUTES["hair_colour"])) if value != none])
    picks = torch.randint(len(others), (len(choices),), generator=torch.Generator().manual_seed(0))
    choices[hidden, colour] = others[picks][hidden]
    return Descriptions(
        images=data.images,
        choices=choices,
        sizes=tuple(len(ATTRIBUTES[name]) for name in names),
        numbers=torch.from_numpy(np.array(data.shades)),
        choice_levels=tuple(LEVELS[name] for name in names),
        number_levels=(FINE,) * data.shades.shape[1],
    )


def build(settings: BuildSettings) -> None:
    """Train `avatars/stylegan2` (or go on) and export it into `settings.out`.

    Writes networks.safetensors (averaged generator and discriminator, fp16), config.json, card.md and
    samples.png.
    """
    data = avatars()
    # The start draws nearly what it should: D needs time alone, a penalty that lets it see small differences, and
    # a generator that does not outrun it. The generator's own turns come with more --steps: 1000 of them made the
    # samples worse (Frechet distance 32 after 20, AlexNet features), so that the embedded model is without.
    recipe = Recipe(
        batch=settings.pick_batch(DEFAULT_BATCH),
        learning_rate=0.002,
        generator_factor=0.1,
        r1_gamma=1.0,
        pretraining=12_000,
        head_start=1500,
        anchor=5.0,
    )
    train(settings, recipe, Pictures(data.images), data)


def train(
    settings: BuildSettings, recipe: Recipe, pictures: Pictures, descriptions: Descriptions | None = None
) -> Trainer:
    """As :func:`build`, for any pictures and recipe; `descriptions` of the pictures, where it has a pretraining."""
    accelerator = Accelerator()
    trainer = Trainer(recipe, pictures, seed=settings.seed, accelerator=accelerator)
    if recipe.pretraining:
        if descriptions is None:
            raise UserError("A recipe with pretraining needs descriptions of its pictures; set pretraining to 0.")
        first = replace(settings, work=settings.work / "pretraining", minutes=None, resume=True)
        fresh = not (settings.resume and (settings.work / CHECKPOINT).exists())
        start = pretrain(copy.deepcopy(trainer.generator), descriptions, first, steps=recipe.pretraining, fit=fresh)
        trainer.start = Start(start.to(accelerator.device), descriptions)
        if fresh:
            trainer.generator.load_state_dict(start.generator.state_dict())
            trainer.average.load_state_dict(start.generator.state_dict())
    steps, seconds = train_loop(
        trainer.step,
        state=trainer.state,  # type: ignore[arg-type]
        steps=settings.pick_steps(DEFAULT_STEPS),
        settings=settings,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        export(settings, trainer, steps=steps, seconds=seconds)
    return trainer


def export(settings: BuildSettings, trainer: Trainer, *, steps: int, seconds: float) -> None:
    """Write the model's files from what has been reached."""
    out, recipe = settings.out, trainer.recipe
    out.mkdir(parents=True, exist_ok=True)
    average = trainer.average.module
    assert isinstance(average, Generator)
    save_networks(out / "networks.safetensors", average, trainer.discriminator, dtype=torch.float16)
    _write(out / "config.json", json.dumps(asdict(recipe), indent=1) + "\n")
    save_sheet(out / "samples.png", contact_sheet(average, seed=1), columns=10)
    count = steps * recipe.batch * trainer.accelerator.num_processes
    _write(out / "card.md", _card(trainer, settings, steps=steps, pictures=count, seconds=seconds))


@torch.no_grad()
def contact_sheet(network: Generator, *, seed: int, count: int = 60, psi: float = 0.7) -> Tensor:
    """Samples [count,3,H,W] in 0..1: one half without, the other with truncation."""
    z = torch.randn(count, network.config.z_dim, generator=torch.Generator().manual_seed(seed))
    z = z.to(network.mapping.w_avg.device)
    half = count // 2
    return torch.cat([network(z[:half]), network(z[half:], truncation_psi=psi)]).float() / 2 + 0.5


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _channels(config: GeneratorConfig | DiscriminatorConfig) -> str:
    each = (f"{c} at {size}" for size, c in zip(config.sizes, config.channels, strict=True))
    return "channels " + ", ".join(each)


def _start(recipe: Recipe, steps: int) -> str:
    if not recipe.pretraining:
        return ""
    adversarial = (
        f"Anchor: reconstruction of {recipe.anchored} pictures a step from the codes of their attributes, weight"
        f" {recipe.anchor:g}."
        if steps > recipe.head_start
        else "The generator itself took no adversarial step: it is the start."
    )
    return (
        f"Start: {recipe.pretraining:,} steps in which the synthesis network learns to draw the avatars from their"
        " attributes (L1, squared error, LPIPS-Alex), hair, beard and clothes told to its coarse layers, the face to"
        " its middle layers and colours to its fine layers; the mapping network set to codes of random"
        f" attributes; then the discriminator alone for {recipe.head_start} steps. {adversarial}\n"
    )


def _card(trainer: Trainer, settings: BuildSettings, *, steps: int, pictures: int, seconds: float) -> str:
    recipe = trainer.recipe
    size_g = sum(p.numel() for p in trainer.generator.parameters())
    size_d = sum(p.numel() for p in trainer.discriminator.parameters())
    return f"""# avatars/stylegan2

StyleGAN2 (Karras et al. 2020) at {recipe.generator.resolution}x{recipe.generator.resolution}: generator \
({recipe.generator.architecture}, {size_g:,} parameters, w {recipe.generator.w_dim}, \
{recipe.generator.mapping_layers} mapping layers; {_channels(recipe.generator)}) and discriminator \
({recipe.discriminator.architecture}, {size_d:,} parameters; {_channels(recipe.discriminator)}).

Data: avatars, training split, {len(trainer.pictures.images):,} pictures, no augmentation.
{_start(recipe, steps)}Training: {steps:,} steps of {recipe.batch} pictures ({pictures:,} in all), {
        seconds / 60:.0f} minutes, seed \
{settings.seed}; non-saturating logistic loss, R1 gamma {recipe.gamma:.4g} every {recipe.r1_interval} steps, path \
length weight {recipe.path_weight:g} every {recipe.path_interval}, style mixing {recipe.style_mixing:g}, Adam(0, 0.99) \
{recipe.learning_rate:g} (generator: x {recipe.generator_factor:g}), average of the generator with a half-life of {
        recipe.half_life:,.0f} pictures.
Made by: `unified zoo build avatars/stylegan2 --steps {steps} --batch {recipe.batch}`

networks.safetensors: averaged generator and discriminator, fp16. Output about -1..1.

![samples](samples.png) Upper half: psi 1. Lower half: psi 0.7.
"""
