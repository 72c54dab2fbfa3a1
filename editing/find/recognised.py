"""Finding directions and paths by whether they can be told apart: Voynov & Babenko 2020, WarpedGANSpace 2021."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from editing.directions import Direction, Directions
from editing.find.attribute_data import seeded
from editing.find.finder import Finder, register
from editing.find.judging import Judge, with_changes
from editing.latent.reconstructor import Reconstructor, Straight, Warped, recognition_loss
from editing.paths import Path
from editing.styles import gan_of, sample_styles
from editing.warp_paths import KIND as WARPED
from editing.warp_paths import WarpPaths
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.errors import UserError

STRAIGHT = "voynov"
Ways = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RecognitionSettings:
    """ways: how many are sought. steps, batch: pairs of pictures that the reconstructor sees. lr: of Adam, of
    ways and reconstructor. least, reach: lengths of a step, in deviations of one coordinate of w; shorter ones
    cannot be seen (the authors of directions take 0.5 to 6 in z; samples of w span 3). weight: of the length's error
    (1/4 in both papers). dipoles: of a warp. tested: pairs for each way that tell how well it is recognised. judged:
    samples whose change names a way. spread: samples that deviations come from.
    """

    ways: int = 16
    steps: int = 600
    batch: int = 16
    lr: float = 1e-3
    least: float = 0.5
    reach: float = 3.0
    weight: float = 0.25
    dipoles: int = 16
    tested: int = 32
    judged: int = 64
    spread: int = 5000


def steps_of(settings: RecognitionSettings, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ways [count] and signed lengths [count] in deviations, at random."""
    way = torch.randint(settings.ways, (count,), generator=generator)
    sign = torch.randint(2, (count,), generator=generator) * 2 - 1
    length = settings.least + (settings.reach - settings.least) * torch.rand(count, generator=generator)
    return way, sign * length


def pairs_of(backbone: Backbone, styles: Tensor, step: Tensor) -> Tensor:
    """Pictures of styles [N, number, width] and of those moved by step [N, width], as channels: [N, 6, H, W]."""
    gan = gan_of(backbone)
    with backbone.bound() as view:
        with torch.no_grad():
            before = gan.render(view, styles)
        after = gan.render(view, styles + step.unsqueeze(1).to(styles.dtype))
    return torch.cat([before, after], 1).clamp(0, 1).float()


def deviation_of(backbone: Backbone) -> float:
    """Deviation of one coordinate of w, the same for all."""
    _, width = gan_of(backbone).style_shape()
    return float(gan_of(backbone).style_statistics()[1]) / width**0.5


def train_ways(
    backbone: Backbone, ways: nn.Module, *, settings: RecognitionSettings, rng: Random, progress: Progress
) -> Reconstructor:
    """Train ways, a module (w [N, width], way [N]) -> unit steps [N, width], and a reconstructor that sees them."""
    if torch.is_inference_mode_enabled():
        raise UserError("Finding directions needs gradients: call it outside of torch.inference_mode().")
    reconstructor = seeded(lambda: Reconstructor(settings.ways, backbone.resolution), rng.child("reconstructor"))
    optimiser = torch.optim.Adam([*ways.parameters(), *reconstructor.parameters()], lr=settings.lr)
    unit = deviation_of(backbone)
    progress.start("telling ways apart", settings.steps)
    with torch.enable_grad():
        for step in range(settings.steps):
            way, length = steps_of(settings, settings.batch, rng.generator("steps", step))
            styles = sample_styles(
                backbone, range(step * settings.batch, (step + 1) * settings.batch), truncation=1.0, rng=rng
            )
            moved = unit * length.unsqueeze(1) * ways(styles[:, 0].float(), way)
            logits, found = reconstructor(pairs_of(backbone, styles, moved))
            loss = recognition_loss(logits, found, way, length, weight=settings.weight)
            if not bool(torch.isfinite(loss)):
                raise UserError("Telling directions apart met a loss that is not finite: lower its learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            progress.advance(step + 1, loss=float(loss.detach()))
    progress.finish()
    ways.requires_grad_(False)
    return reconstructor.requires_grad_(False)


@torch.no_grad()
def recognised(
    backbone: Backbone, ways: Ways, reconstructor: Reconstructor, *, settings: RecognitionSettings, rng: Random
) -> list[float]:
    """Share of fresh pairs of each way that the reconstructor recognises, 0..1."""
    unit, right = deviation_of(backbone), []
    for way in range(settings.ways):
        chosen = torch.full((settings.tested,), way)
        _, length = steps_of(settings, settings.tested, rng.generator("test", way))
        styles = sample_styles(backbone, range(settings.tested), truncation=1.0, rng=rng.child("test", way))
        moved = unit * length.unsqueeze(1) * ways(styles[:, 0].float(), chosen)
        logits, _ = reconstructor(pairs_of(backbone, styles, moved))
        right.append(float((logits.argmax(1) == chosen).float().mean()))
    return right


def _latents(backbone: Backbone, settings: RecognitionSettings, rng: Random) -> Tensor:
    return sample_styles(backbone, range(settings.spread), truncation=1.0, rng=rng.child("spread"))[:, 0].float()


def voynov_directions(
    backbone: Backbone,
    judge: Judge,
    *,
    settings: RecognitionSettings = RecognitionSettings(),
    rng: Random,
    progress: Progress,
) -> Directions:
    """Orthonormal directions of w that a reconstructor tells apart, those it recognises best first.

    The paper moves z; here w, so that they are edits as any other. `accuracy` is the share it recognises.
    """
    _, width = gan_of(backbone).style_shape()
    settings = replace(settings, ways=min(settings.ways, width))
    straight = seeded(lambda: Straight(settings.ways, width), rng.child("ways"))
    reconstructor = train_ways(backbone, straight, settings=settings, rng=rng, progress=progress)
    right = recognised(backbone, straight, reconstructor, settings=settings, rng=rng)
    latents, vectors = _latents(backbone, settings, rng), straight.directions()
    order = sorted(range(settings.ways), key=lambda way: -right[way])
    items = {
        f"direction-{place}": Direction(
            vectors[way].to(backbone.dtype), float((latents @ vectors[way]).std()), accuracy=right[way]
        )
        for place, way in enumerate(order)
    }
    named = with_changes(backbone, judge.classifier, items, count=settings.judged, progress=progress)
    data = f"{settings.steps * settings.batch:,} pairs of pictures"
    return Directions(named, backbone.id, backbone.fingerprint, judge.name, settings.judged, {}, STRAIGHT, data)


def warped_paths(
    backbone: Backbone,
    judge: Judge,
    *,
    settings: RecognitionSettings = RecognitionSettings(reach=2.0),
    rng: Random,
    progress: Progress,
) -> Directions:
    """Warps of w whose paths a reconstructor tells apart. `accuracy` is the share that it recognises.

    Strength 1 goes by one deviation of samples along the mean direction of the path. Training takes one step along
    the gradient; an edit takes several short ones, and so follows the bend.
    """
    gan = gan_of(backbone)
    _, width = gan.style_shape()
    warps = seeded(lambda: Warped(settings.ways, width, dipoles=settings.dipoles), rng.child("ways"))
    mean, _ = gan.style_statistics()
    warps.mean, warps.spread = mean.float().clone(), torch.tensor(deviation_of(backbone))
    reconstructor = train_ways(backbone, warps, settings=settings, rng=rng, progress=progress)
    right = recognised(backbone, warps, reconstructor, settings=settings, rng=rng)
    latents = _latents(backbone, settings, rng)
    lengths = []
    for way in range(settings.ways):
        first = warps(latents[:1000], torch.full((len(latents[:1000]),), way))
        lengths.append(float((latents @ functional.normalize(first.mean(0), dim=0)).std()))
    model = WarpPaths(warps, torch.tensor(lengths))
    paths = {f"path-{way}": Path(f"path-{way}", model, accuracy=right[way]) for way in range(settings.ways)}
    named = with_changes(backbone, judge.classifier, paths, count=settings.judged, progress=progress)
    data = f"{settings.steps * settings.batch:,} pairs of pictures"
    found = Directions({}, backbone.id, backbone.fingerprint, judge.name, settings.judged, {}, WARPED, data)
    return replace(found, paths=named)


def _chosen(samples: int | None, settings: RecognitionSettings) -> RecognitionSettings:
    """samples: pairs of pictures that are seen."""
    return settings if samples is None else replace(settings, steps=max(1, samples // settings.batch))


def _straight(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = _chosen(samples, RecognitionSettings())
    return voynov_directions(backbone, judge, settings=settings, rng=rng, progress=progress)


def _warped(backbone: Backbone, judge: Judge, *, samples: int | None, rng: Random, progress: Progress) -> Directions:
    settings = _chosen(samples, RecognitionSettings(reach=2.0))
    return warped_paths(backbone, judge, settings=settings, rng=rng, progress=progress)


register(Finder(STRAIGHT, "directions that a network tells apart (Voynov & Babenko 2020)", _straight))
register(Finder(WARPED, "bent paths that a network tells apart (Tzelepis et al. 2021)", _warped))
