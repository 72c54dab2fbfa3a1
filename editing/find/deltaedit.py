"""DeltaEdit's mapper of a generator: trained on pairs of its own samples, without any text (Lyu et al. 2023)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from editing.affine import style_matrices
from editing.direction_file import KEY, check_fingerprint, describe, made_for
from editing.find.attribute_data import fit, seeded
from editing.find.channel_statistics import channels_from
from editing.find.judging import layer_groups
from editing.latent.delta import DeltaMapper, delta_loss
from editing.rendering import render_shifted
from editing.scorers import TextScorer
from editing.styles import channel_sizes, gan_of, sample_styles
from unified.contract.abilities import Styled, can
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.directions_hook import direction_finders
from unified.errors import UserError
from unified.files import cache_folder, write_file

METHOD = "deltaedit"
FILE = "delta-mapper.safetensors"
_FORMAT = 1
_NET = "mapper/"


@dataclass(frozen=True)
class DeltaSettings:
    """samples: pictures that pairs are drawn of. steps, batch, lr: of Adam. skip: layers whose name matches do not
    move (the paper leaves out those to RGB).
    """

    samples: int = 10_000
    steps: int = 2000
    batch: int = 64
    lr: float = 0.1
    skip: str = "rgb"
    render: int = 100


@dataclass(frozen=True, eq=False)
class Delta:
    """mapper: of the channels at `places` [C'] of all, in deviations from `mean`, both [channels].

    scorer: who saw the pictures. data: how many.
    """

    mapper: DeltaMapper
    places: Tensor
    mean: Tensor
    deviation: Tensor
    scorer: str
    data: str


def channel_places(backbone: Backbone, deviation: Tensor, skip: str) -> tuple[Tensor, list[int]]:
    """The channels that move, ordered by coarse, medium and fine layers, and how many each group has."""
    number, _ = gan_of(backbone).style_shape()
    spans = {name: span for name, span in layer_groups(number).items() if name != "all"} or layer_groups(number)
    style = {layer: place for place, found in enumerate(style_matrices(backbone)) for layer in found}
    groups: list[list[int]] = [[] for _ in spans]
    first = 0
    for layer, size in channel_sizes(backbone).items():
        if not re.search(skip, layer):
            group = next(k for k, (low, high) in enumerate(spans.values()) if low <= style[layer] <= high)
            groups[group] += [place for place in range(first, first + size) if float(deviation[place]) > 0]
        first += size
    groups = [group for group in groups if group]
    if not groups:
        raise UserError(f"No style channel of {backbone.id} is left to move: all match {skip!r}, or none varies.")
    return torch.tensor([place for group in groups for place in group]), [len(group) for group in groups]


def train_delta(
    backbone: Backbone,
    scorer: TextScorer,
    *,
    name: str,
    settings: DeltaSettings = DeltaSettings(),
    rng: Random,
    progress: Progress,
) -> Delta:
    """A mapper of steps in the scorer's space to steps of style channels, learned from pairs of samples.

    Steps in the scorer's space are unit vectors. Raises UserError if the backbone has no style channels.
    """
    if not can(backbone, Styled):
        raise UserError(f"{METHOD} cannot be trained on {backbone.id}: it is no GAN with style channels.")
    all_channels, all_features = [], []
    progress.start("pictures and their features", settings.samples)
    with torch.no_grad():
        for start in range(0, settings.samples, settings.render):
            rows = range(start, min(start + settings.render, settings.samples))
            styles = sample_styles(backbone, rows, truncation=1.0, rng=rng)
            all_channels.append(channels_from(backbone, styles[:, 0]).float())
            all_features.append(scorer.image_features(render_shifted(backbone, styles)).float())
            progress.advance(rows[-1] + 1)
    progress.finish()
    channels, features = torch.cat(all_channels), torch.cat(all_features)
    mean, deviation = channels.mean(0), channels.std(0)
    places, sizes = channel_places(backbone, deviation, settings.skip)
    scaled = ((channels - mean) / deviation.clamp(min=1e-12))[:, places]
    mapper = seeded(lambda: DeltaMapper(sizes, features.shape[1]), rng.child("mapper"))

    def loss(rows: Tensor, step: int) -> Tensor:
        others = torch.randint(len(scaled), (len(rows),), generator=rng.generator("others", step))
        way = functional.normalize(features[others] - features[rows], dim=1)
        return delta_loss(mapper(scaled[rows], features[rows], way), scaled[others] - scaled[rows])

    fit(
        mapper,
        loss,
        len(scaled),
        settings.steps,
        settings.batch,
        settings.lr,
        "steps of style channels",
        rng=rng.child("fit"),
        progress=progress,
    )
    return Delta(mapper, places, mean, deviation, name, f"pairs of {settings.samples:,} random samples")


def user_file(fingerprint: str) -> Path:
    """Where the mapper of a generator that is not embedded lies."""
    return cache_folder() / "delta-mappers" / f"{fingerprint}.safetensors"


def delta_file(fingerprint: str) -> Path | None:
    """The mapper of a generator: the user's own, else an embedded one; None if there is neither."""
    return made_for(fingerprint, user_file(fingerprint), FILE)


def save_delta(delta: Delta, backbone: Backbone, path: Path) -> Path:
    """Write it; returns the path."""
    description = {
        "format": _FORMAT,
        "method": METHOD,
        "backbone": backbone.id,
        "fingerprint": backbone.fingerprint,
        "extractor": delta.scorer,
        "data": delta.data,
        "mapper": {"sizes": list(delta.mapper.sizes), "features": delta.mapper.features, "layers": delta.mapper.depth},
    }
    tensors = {f"{_NET}{name}": value for name, value in delta.mapper.state_dict().items()}
    tensors |= {"places": delta.places, "mean": delta.mean, "deviation": delta.deviation}
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    return write_file(path, save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)}))


def load_delta(path: Path, backbone: Backbone) -> Delta:
    """Raises UserError if the file is damaged or was made for other weights."""
    description = describe(path)
    check_fingerprint(path, description, backbone)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
        shape = description["mapper"]
        mapper = DeltaMapper(shape["sizes"], shape["features"], layers=shape["layers"])
        mapper.load_state_dict({k.removeprefix(_NET): v for k, v in tensors.items() if k.startswith(_NET)})
        found = Delta(
            mapper.requires_grad_(False),
            tensors["places"],
            tensors["mean"],
            tensors["deviation"],
            description["extractor"],
            description["data"],
        )
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is a damaged mapper ({error}): make it again by --find {METHOD}.") from error
    if len(found.mean) != sum(channel_sizes(backbone).values()):
        raise UserError(f"The mapper in {path} is of other style channels than those of {backbone.id}.")
    return found


@dataclass(frozen=True)
class DeltaFinder:
    """Trains what edits by text read."""

    summary: str = "a mapper for edits by text, trained without any (Lyu et al. 2023)"

    def find(self, backbone: Backbone, *, samples: int | None, progress: Progress) -> str:
        from unified.extractors import clip

        settings = DeltaSettings() if samples is None else DeltaSettings(samples=samples)
        scorer = clip.load()
        rng = Random(0).child("directions")
        delta = train_delta(backbone, scorer, name=scorer.name, settings=settings, rng=rng, progress=progress)
        path = save_delta(delta, backbone, user_file(backbone.fingerprint))
        return f"A mapper for edits '{METHOD}:TEXT', judged by {scorer.name}: {path}"


direction_finders.register(METHOD, DeltaFinder())
