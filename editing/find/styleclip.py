"""What each style channel does to pictures as CLIP sees them: prepared once for a generator, used for any text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from editing.direction_file import KEY, check_fingerprint, describe, made_for
from editing.find.channel_statistics import channel_statistics, channels_from
from editing.latent.styleclip import channel_effects
from editing.scorers import TextScorer
from editing.styles import channel_sizes, sample_styles, split, styled_of
from unified.contract.abilities import Styled, can
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.directions_hook import direction_finders
from unified.errors import UserError
from unified.files import cache_folder, write_file
from unified.zoo.training import BuildSettings

METHOD = "styleclip"
FILE = "channel-effects.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class EffectSettings:
    """pictures: that each channel is tried on. strength: deviations it is moved by, both ways. samples: that the
    deviations come from. skip: layers whose name matches do not move (the authors leave out those to RGB).
    """

    pictures: int = 100
    strength: float = 5.0
    samples: int = 2_000
    skip: str = "rgb"
    batch: int = 100


@dataclass(frozen=True, eq=False)
class Effects:
    """effects: [channels, D] as `channel_effects` gives them; 0 for layers left out. deviation: [channels].

    scorer: who saw the pictures. data: how many.
    """

    effects: Tensor
    deviation: Tensor
    scorer: str
    data: str


@torch.no_grad()
def measure_effects(
    backbone: Backbone,
    scorer: TextScorer,
    *,
    settings: EffectSettings = EffectSettings(),
    rng: Random,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Effects [channels, D] and deviations [channels] of every style channel (Patashnik et al. 2021, section 6.2)."""
    gan = styled_of(backbone)
    sizes = gan.style_channels()
    _, deviation = channel_statistics(backbone, range(settings.samples), rng=rng)
    styles = sample_styles(backbone, range(settings.pictures), truncation=1.0, rng=rng)
    start = channels_from(backbone, styles[:, 0])
    moves = torch.cat([torch.full((size,), not re.search(settings.skip, name)) for name, size in sizes.items()])
    chosen = (moves & (deviation > 0)).nonzero().flatten().tolist()
    if not chosen:
        raise UserError(f"No style layer is left: all of {', '.join(sizes)} match {settings.skip!r}.")
    progress.start("trying channels", len(chosen))
    effects: Tensor | None = None
    with backbone.bound() as view:

        def features(channels: Tensor) -> Tensor:
            parts = [
                scorer.image_features(gan.render_channels(view, split(part, sizes)).clamp(0, 1))
                for part in channels.split(settings.batch)
            ]
            return torch.cat(parts)

        for done, channel in enumerate(chosen, 1):
            step = torch.zeros_like(deviation)
            step[channel] = settings.strength * deviation[channel]
            difference = features(start + step) - features(start - step)
            effects = difference.new_zeros(len(deviation), difference.shape[1]) if effects is None else effects
            effects[channel] = channel_effects(difference.unsqueeze(0))[0]
            progress.advance(done)
    progress.finish()
    assert effects is not None
    return effects, deviation


def user_file(fingerprint: str) -> Path:
    """Where the effects of a generator that is not embedded lie."""
    return cache_folder() / "channel-effects" / f"{fingerprint}.safetensors"


def effects_file(fingerprint: str) -> Path | None:
    """The effects of a generator: the user's own, else embedded ones; None if there are neither."""
    return made_for(fingerprint, user_file(fingerprint), FILE)


def save_effects(effects: Effects, backbone: Backbone, path: Path) -> Path:
    """Write them; half precision suffices for directions."""
    description = {
        "format": _FORMAT,
        "method": METHOD,
        "backbone": backbone.id,
        "fingerprint": backbone.fingerprint,
        "extractor": effects.scorer,
        "data": effects.data,
        "channels": [list(pair) for pair in channel_sizes(backbone).items()],
    }
    tensors = {"effects": effects.effects.half().contiguous(), "deviation": effects.deviation.float().contiguous()}
    return write_file(path, save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)}))


def load_effects(path: Path, backbone: Backbone) -> Effects:
    """Raises UserError if the file is damaged or was made for other weights."""
    description = describe(path)
    check_fingerprint(path, description, backbone)
    with safe_open(path, framework="pt") as file:
        effects, deviation = file.get_tensor("effects").float(), file.get_tensor("deviation").clone()
    return Effects(effects, deviation, description["extractor"], description["data"])


@dataclass(frozen=True)
class EffectFinder:
    """`unified edit --find styleclip`: prepares the model for edits like "styleclip:a person with glasses"."""

    summary: str = (
        "what each style channel does to pictures as CLIP sees them, for edits by text (Patashnik et al. 2021)"
    )

    def find(self, backbone: Backbone, *, samples: int | None, progress: Progress) -> str:
        path = find_effects(backbone, samples=samples, path=user_file(backbone.fingerprint), progress=progress)
        return f"edits by text, such as 'styleclip:a person with glasses': {path}"


def find_effects(
    backbone: Backbone, *, samples: int | None, path: Path, progress: Progress, rng: Random | None = None
) -> Path:
    """Measure the effects as the embedded CLIP sees them, on `samples` pictures for each channel, and store them."""
    from unified.extractors import clip

    if not can(backbone, Styled):
        raise UserError(f"{METHOD} cannot find directions on {backbone.id}: it is no GAN with style channels.")
    scorer = clip.load()
    settings = EffectSettings() if samples is None else EffectSettings(pictures=samples)
    rng = rng or Random(0).child("directions")
    effects, deviation = measure_effects(backbone, scorer, settings=settings, rng=rng, progress=progress)
    data = f"{settings.pictures} random samples, each channel moved by {settings.strength:g} deviations both ways"
    return save_effects(Effects(effects, deviation, scorer.name, data), backbone, path)


def build(settings: BuildSettings) -> None:
    """Builder of avatars/channel-effects. `settings.steps` is the number of pictures for each channel."""
    from unified.loading import load
    from unified.progress import Bar

    backbone = load("avatars/stylegan2")
    rng = Random(settings.seed).child("directions")
    path = find_effects(backbone, samples=settings.steps, path=settings.out / FILE, progress=Bar(), rng=rng)
    more = "" if settings.steps is None else f" --steps {settings.steps}"
    text = f"""# avatars/channel-effects

What each style channel of {backbone.id} (weights {backbone.fingerprint}) does to pictures, as avatars/clip sees
them: for edits by text, such as `unified edit me.safetensors --set "styleclip:a person with glasses=4"`
(StyleCLIP's global directions, Patashnik et al. 2021, section 6).

- Data: {load_effects(path, backbone).data}
- Made by: `unified zoo build avatars/channel-effects{more}`
"""
    write_file(settings.out / "card.md", text.encode())


direction_finders.register(METHOD, EffectFinder())
