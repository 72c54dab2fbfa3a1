"""StyleFlow: a conditional flow of w with the attributes that a classifier sees (Abdal et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from editing.directions import Directions
from editing.find.attribute_data import AttributeData, ProxySettings, attribute_data, fit, seeded, train_proxy
from editing.find.finder import Finder, register
from editing.find.judging import Judge
from editing.flow_paths import KIND, LAYERS, FlowPaths
from editing.latent.flow import ConditionalFlow
from editing.paths import Path
from editing.styles import gan_of
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random

_EXACT = 4  # width up to which the trace itself costs little


@dataclass(frozen=True)
class FlowSettings:
    """samples: judged (the paper: 10 000). hidden: widths of the flow's layers; None: three as wide as w. solver:
    Runge-Kutta steps. steps, batch, lr: of Adam. least: share of samples that must show a value, and must not.
    """

    samples: int = 10_000
    hidden: tuple[int, ...] | None = None
    solver: int = 6
    steps: int = 2000
    batch: int = 128
    lr: float = 1e-3
    least: float = 0.01
    proxy: ProxySettings = field(default_factory=ProxySettings)


def train_flow(
    data: AttributeData, settings: FlowSettings = FlowSettings(), *, rng: Random, progress: Progress
) -> ConditionalFlow:
    """The flow that makes the latents most likely given their attributes.

    The trace is taken as it is for narrow w, else estimated with one random vector a picture (Hutchinson), as by the
    authors. The last layer starts small, so that the flow starts near the identity.
    """
    w, scores = data.latents, data.scores
    width = w.shape[1]
    hidden = settings.hidden or (width, width, width)
    flow = seeded(
        lambda: ConditionalFlow(width, scores.shape[1], hidden=hidden, steps=settings.solver), rng.child("flow")
    )
    flow.mean, flow.deviation = w.mean(0), w.std(0).clamp(min=1e-6)
    with torch.no_grad():
        for value in flow.layers[-1].parameters():
            value.mul_(0.1)

    def loss(rows: Tensor, step: int) -> Tensor:
        signs = torch.randint(2, (len(rows), width), generator=rng.generator("signs", step))
        probe = None if width <= _EXACT else 2.0 * signs - 1.0
        return -flow.log_likelihood(w[rows], scores[rows], probe=probe).mean()

    fit(flow, loss, len(w), settings.steps, settings.batch, settings.lr, "flow of w", rng=rng, progress=progress)
    return flow


def flow_paths(
    backbone: Backbone, judged: Judge, *, settings: FlowSettings = FlowSettings(), rng: Random, progress: Progress
) -> Directions:
    """A path for every value that the classifier knows and the samples vary in. Raises UserError if there is none."""
    data = attribute_data(backbone, judged, samples=settings.samples, least=settings.least, rng=rng, progress=progress)
    proxy, accuracies = train_proxy(data, settings.proxy, rng=rng.child("proxy"), progress=progress)
    flow = train_flow(data, settings, rng=rng.child("flow"), progress=progress)
    model = FlowPaths(flow, proxy, data.names, data.mean, data.deviation)
    number, _ = gan_of(backbone).style_shape()
    paths = {}
    for place, name in enumerate(data.names):
        layers = tuple(layer for layer in LAYERS.get(name.partition("=")[0], ()) if layer < number)
        paths[name] = Path(name, model, layers, accuracies[place], data.shares[place])
    found = Directions({}, backbone.id, backbone.fingerprint, judged.name, settings.samples, data.left_out, KIND)
    return replace(found, data=f"{settings.samples:,} random samples", paths=paths)


def _search(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = FlowSettings() if samples is None else FlowSettings(samples=samples)
    return flow_paths(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder(KIND, "a flow of w given its attributes, back and forward (Abdal et al. 2021)", _search))
