"""Latents and the attributes that a classifier sees in their pictures: what paths are trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from editing.find.interfacegan import check_found, rarity
from editing.find.judging import BATCH, Judge, judge
from editing.latent.proxy import CERTAIN, Proxy
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class AttributeData:
    """latents: [N, width]. scores: [N, values], log-odds within +-CERTAIN in deviations from their mean.

    names: "attribute=value" of each column. mean, deviation: [values] of the log-odds. shares: of the samples that
    show each value, 0..1. left_out: values that too few samples show, and why.
    """

    latents: Tensor
    scores: Tensor
    names: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    shares: tuple[float, ...]
    left_out: dict[str, str]


def attribute_data(
    backbone: Backbone, judged: Judge, *, samples: int, least: float, rng: Random, progress: Progress
) -> AttributeData:
    """Judge `samples` random pictures. least: share of them that must show a value, and must not.

    Raises UserError if no value varies.
    """
    classifier = judged.classifier
    latents, scores = judge(backbone, classifier, range(samples), batch=BATCH, rng=rng, progress=progress)
    columns: dict[str, Tensor] = {}
    shares: list[float] = []
    left_out: dict[str, str] = {}
    for attribute, values in classifier.vocabulary.items():
        for place, value in enumerate(values):
            score = scores[attribute][:, place]
            share = float((score > 0).float().mean())
            reason = rarity(share, least)
            if reason is not None:
                left_out[f"{attribute}={value}"] = reason
                continue
            columns[f"{attribute}={value}"] = score.clamp(-CERTAIN, CERTAIN).float()
            shares.append(share)
    check_found(columns, backbone, judged.name)
    odds = torch.stack(list(columns.values()), dim=1)
    mean, deviation = odds.mean(0), odds.std(0)
    scaled = (odds - mean) / deviation
    return AttributeData(latents.float(), scaled, tuple(columns), mean, deviation, tuple(shares), left_out)


@dataclass(frozen=True)
class ProxySettings:
    """hidden: widths of the layers. steps, batch, lr: of Adam. held_out: share of the samples that test it."""

    hidden: tuple[int, ...] = (256, 256)
    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    held_out: float = 0.1


def train_proxy(
    data: AttributeData, settings: ProxySettings = ProxySettings(), *, rng: Random, progress: Progress
) -> tuple[Proxy, tuple[float, ...]]:
    """A network that reads the scores from w, and how often it is right about each value on held-out samples."""
    kept = max(1, int(len(data.latents) * (1 - settings.held_out)))
    w, scores = data.latents[:kept], data.scores[:kept]
    width, count = w.shape[1], scores.shape[1]
    network = seeded(lambda: Proxy(width, count, hidden=settings.hidden), rng.child("proxy"))
    network.mean, network.deviation = w.mean(0), w.std(0).clamp(min=1e-6)

    def loss(rows: Tensor, step: int) -> Tensor:
        return (network(w[rows]) - scores[rows]).square().mean()

    fit(network, loss, len(w), settings.steps, settings.batch, settings.lr, "reading w", rng=rng, progress=progress)
    zero = -data.mean / data.deviation  # log-odds of 0
    tested = slice(kept, None) if kept < len(data.latents) else slice(None)
    with torch.no_grad():
        right = (network(data.latents[tested]) > zero) == (data.scores[tested] > zero)
    return network, tuple(right.float().mean(0).tolist())


def seeded(make: Callable[[], Module], rng: Random) -> Module:
    """A module whose initial weights come from `rng`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.generator("weights").initial_seed())
        return make()


def fit(
    network: nn.Module,
    loss: Callable[[Tensor, int], Tensor],
    samples: int,
    steps: int,
    batch: int,
    lr: float,
    label: str,
    *,
    rng: Random,
    progress: Progress,
) -> None:
    """Adam on `loss(rows, step)` over mini-batches of rows below `samples`, the rate falling to 0 by a cosine.

    The network is frozen afterwards. Raises UserError if the loss is not finite.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("Training needs gradients: call it outside of torch.inference_mode().")
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    progress.start(label, steps)
    with torch.enable_grad():
        for step in range(steps):
            rows = torch.randint(samples, (batch,), generator=rng.generator("rows", step))
            value = loss(rows, step)
            if not bool(torch.isfinite(value)):
                raise UserError(f"Training ({label}) met a loss that is not finite: lower its learning rate.")
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            progress.advance(step + 1, loss=float(value.detach()))
    progress.finish()
    network.requires_grad_(False)
