"""Training of the encoders into avatars/stylegan2, all by one loop, as `unified zoo build` runs it.

The losses and settings are those of the papers, with two differences that short trainings of small networks need:
Adam with a warm-up and a rate that falls along a cosine (the papers: Ranger, which is Adam with a rectified warm-up
and lookahead, at a fixed rate), and the average of the weights is what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs  # type: ignore[import-untyped]
from torch import Tensor, nn

from backbones.stylegan.backbone import StyleGAN
from backbones.stylegan.encoders.card import SHOWN, Scores, card, redrawn
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.finding import ENCODERS
from backbones.stylegan.encoders.inverter import Inverter
from backbones.stylegan.encoders.losses import (
    Distance,
    Pools,
    likeness,
    one_of_each,
    regularity,
    total,
    unlocked_at,
)
from backbones.stylegan.encoders.network import LatentDiscriminator
from backbones.stylegan.encoders.plan import PLANS, Plan
from backbones.stylegan.encoders.stored import save_inverter
from backbones.stylegan.generator import Generator
from backbones.stylegan.losses import discriminator_loss, generator_loss
from backbones.stylegan.statistics import map_latents
from unified.avatars import dataset
from unified.avatars.dataset import to_tensor
from unified.extractors.attributes import schedule
from unified.extractors.identity import load as load_identity
from unified.loading import load
from unified.metrics.lpips import embedded_lpips
from unified.picture_encoders import encoder_of
from unified.zoo.registry import folder_of
from unified.zoo.sheet import sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, step_generator, train_loop

HALF_LIFE = 100.0  # steps, of the averaged weights
MAXIMUM_NORM = 1.0  # of the gradient
POOL, R1_WEIGHT, R1_INTERVAL = 50, 10.0, 16  # e4e's judge
VALIDATED = 64  # pictures that the scores of the card come from


class Trainer:
    """The encoder under training, its judge and its optimisers; `step` is one step of `train_loop`."""

    def __init__(
        self,
        plan: Plan,
        generator: Generator,
        pictures: Callable[[Tensor], Tensor],
        count: int,
        *,
        steps: int,
        seed: int,
        accelerator: Accelerator,
        perceptual: Distance,
        identity: Distance,
        base: Inverter | None = None,
    ) -> None:
        """pictures: indices [N] below `count` -> pictures [N,3,H,W] in 0..1. base: the encoder that the plan names."""
        self.plan, self.pictures, self.count = plan, pictures, count
        self.steps, self.seed, self.accelerator = steps, seed, accelerator
        self.distances = (perceptual, identity)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inverter = plan.make(generator.config)
            self.judge = LatentDiscriminator(generator.config.w_dim)
        if base is None:
            self.inverter.latent_avg.copy_(generator.mapping.w_avg)
        else:
            self.inverter.begin_with(base)
        self.inverter.requires_grad_(False)
        self.inverter.learned().requires_grad_(True)
        generator.to(accelerator.device)
        self.generator, self.draw = generator, Drawer(generator)
        learned = list(self.inverter.learned().parameters())
        self.call, self.judging, self.optimiser, self.judge_optimiser = accelerator.prepare(
            self.inverter,
            self.judge,
            torch.optim.Adam(learned, lr=plan.learning_rate),
            torch.optim.Adam(self.judge.parameters(), lr=plan.judge_rate),
        )
        self.average = ExponentialAverage(self.inverter, half_life=HALF_LIFE)
        width = generator.config.w_dim
        self.pools = Pools(POOL, width).to(accelerator.device)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "inverter": self.inverter,
            "judge": self.judge,
            "average": self.average,
            "optimiser": self.optimiser,
            "judge_optimiser": self.judge_optimiser,
            "pools": self.pools,
        }

    def step(self, step: int) -> Mapping[str, float]:
        """One update; what is random depends on (seed, step, process) alone."""
        plan, random = self.plan, step_generator(self.seed, step, stream=self.accelerator.process_index)
        chosen = torch.randint(self.count, (plan.batch,), generator=random)
        true = self.pictures(chosen).to(self.accelerator.device) * 2 - 1
        given = self.inverter.prepared(true / 2 + 0.5)
        unlocked = self._unlock(step)
        self.inverter.train()
        for group in self.optimiser.param_groups:
            group["lr"] = plan.learning_rate * schedule(step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        log: dict[str, float] = {}
        for drawn in self.inverter.drawn(self.call, given, self.draw, random):
            terms = likeness(drawn.picture, true, plan.weights, *self.distances)
            terms |= regularity(drawn.ws, self.inverter.latent_avg, unlocked, plan.weights)
            terms |= drawn.aside
            if plan.weights.judged:
                self.judge.requires_grad_(False)
                every = drawn.ws[:, : unlocked + 1].flatten(0, 1)
                terms["judged"] = plan.weights.judged * generator_loss(self.judging(every)).mean()
            self.accelerator.backward(total(terms))
            log = {name: value.item() for name, value in terms.items()}
        nn.utils.clip_grad_norm_(self.inverter.learned().parameters(), MAXIMUM_NORM)
        self.optimiser.step()
        if plan.weights.judged:
            log["judge"] = self._judge(drawn.ws.detach(), unlocked, step, random)
        self.average.update(self.inverter, step + 1)
        return log

    def _unlock(self, step: int) -> int:
        """How many offsets from the first style take part now: of progressive encoders ever more."""
        num_ws = self.generator.config.num_ws
        encoder = self.inverter.unlocking()
        if encoder is None:
            return num_ws - 1
        encoder.unlocked = unlocked_at(step / self.steps, num_ws)
        return encoder.unlocked

    def _judge(self, ws: Tensor, unlocked: int, step: int, random: torch.Generator) -> float:
        """The judge's turn: style vectors of random latents against the encoder's (Tov et al. 2021, section 4.2)."""
        self.judge.requires_grad_(True)
        z = torch.randn(len(ws), self.generator.config.z_dim, generator=random).to(ws.device)
        with torch.no_grad():
            real = self.pools.real.mixed(map_latents(self.generator, z), random)
        found = self.pools.found.mixed(one_of_each(ws, unlocked, random), random)
        loss = discriminator_loss(self.judging(real), self.judging(found)).mean()
        self.judge_optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if step % R1_INTERVAL == 0:
            inputs = real.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.judging(inputs).sum(), inputs, create_graph=True)
            self.accelerator.backward(slope.square().sum(1).mean() * (R1_WEIGHT / 2 * R1_INTERVAL))
        self.judge_optimiser.step()
        return loss.item()


def train(
    settings: BuildSettings,
    plan: Plan,
    generator: Generator,
    images: np.ndarray,
    held_out: np.ndarray,
    *,
    fingerprint: str,
    perceptual: Distance,
    identity: Distance,
    base: Inverter | None = None,
) -> Trainer:
    """Train (or go on) and export into `settings.out`: weights, settings, card, and pictures before and after.

    images, held_out: uint8 [N,H,W,3]. fingerprint: of the generator's backbone.
    """
    # Some encoders use a part of their networks in each round.
    rounds = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    accelerator = Accelerator(kwargs_handlers=[rounds])
    plan = replace(plan, batch=settings.pick_batch(plan.batch))
    steps = settings.pick_steps(plan.steps)
    trainer = Trainer(
        plan,
        generator,
        lambda chosen: to_tensor(images[chosen.numpy()]),
        len(images),
        steps=steps,
        seed=settings.seed,
        accelerator=accelerator,
        perceptual=perceptual,
        identity=identity,
        base=base,
    )
    reached, seconds = train_loop(
        trainer.step, state=trainer.state, steps=steps, settings=settings, accelerator=accelerator
    )
    if accelerator.is_main_process:
        inverter = trainer.average.module
        assert isinstance(inverter, Inverter)
        inverter.generator = fingerprint
        true = to_tensor(held_out[:VALIDATED]).to(accelerator.device)
        drawn = redrawn(inverter, true, trainer.draw)
        text = card(
            plan,
            inverter,
            Scores.of(drawn, true, perceptual, identity),
            summary=ENCODERS[plan.name],
            steps=reached,
            seconds=seconds,
            settings=settings,
            pictures=len(images),
        )
        samples = sheet(torch.cat([true[:SHOWN], drawn[:SHOWN]]), columns=min(SHOWN, len(true)))
        save_inverter(settings.out, inverter, name=plan.name, card=text, more={"samples.png": samples})
    return trainer


def build(name: str, settings: BuildSettings) -> None:
    """Train the encoder `name` into avatars/stylegan2 on the avatars, and export it."""
    backbone = load("avatars/stylegan2")
    assert isinstance(backbone, StyleGAN)
    plan = PLANS[name]
    base = encoder_of(backbone, plan.base) if plan.base else None
    embedder, lpips = load_identity(folder_of("avatars/identity")), embedded_lpips()
    train(
        settings,
        plan,
        backbone.generator,
        dataset.load("train").images,
        dataset.load("validation").images,
        fingerprint=backbone.fingerprint,
        perceptual=lpips,
        identity=lambda first, second: 1 - (embedder.embed(first) * embedder.embed(second)).sum(1),
        base=base,
    )


psp, e4e = partial(build, "psp"), partial(build, "e4e")
restyle_psp, restyle_e4e = partial(build, "restyle-psp"), partial(build, "restyle-e4e")
hfgi = partial(build, "hfgi")
hyperstyle = partial(build, "hyperstyle")
styletransformer = partial(build, "styletransformer")
