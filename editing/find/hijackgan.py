"""HijackGAN: a network that reads attributes from w, whose gradients edits follow (Wang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from editing.directions import Directions
from editing.find.attribute_data import ProxySettings, attribute_data, train_proxy
from editing.find.finder import Finder, register
from editing.find.judging import Judge
from editing.gradient_paths import KIND, GradientPaths
from editing.latent.proxy import white_root
from editing.paths import Path
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random


@dataclass(frozen=True)
class GradientSettings:
    """samples: judged. least: share of samples that must show a value, and must not. proxy: how it is trained."""

    samples: int = 10_000
    least: float = 0.01
    proxy: ProxySettings = field(default_factory=ProxySettings)


def gradient_paths(
    backbone: Backbone,
    judged: Judge,
    *,
    settings: GradientSettings = GradientSettings(),
    rng: Random,
    progress: Progress,
) -> Directions:
    """A path for every value that the classifier knows and the samples vary in. Raises UserError if there is none."""
    data = attribute_data(backbone, judged, samples=settings.samples, least=settings.least, rng=rng, progress=progress)
    proxy, accuracies = train_proxy(data, settings.proxy, rng=rng.child("proxy"), progress=progress)
    model = GradientPaths(proxy, data.names, white_root(data.latents))
    paths = {
        name: Path(name, model, accuracy=accuracies[place], share=data.shares[place])
        for place, name in enumerate(data.names)
    }
    found = Directions({}, backbone.id, backbone.fingerprint, judged.name, settings.samples, data.left_out, KIND)
    return replace(found, data=f"{settings.samples:,} random samples", paths=paths)


def _search(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = GradientSettings() if samples is None else GradientSettings(samples=samples)
    return gradient_paths(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder(KIND, "steps along the gradient of a network that reads w (Wang et al. 2021)", _search))
