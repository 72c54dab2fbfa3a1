"""Text-driven edits by StyleCLIP's latent mapper: trained once for a text, then one pass for each picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from editing.find.judging import layer_groups
from editing.latent.mapper import Mapper
from editing.scorers import Embedder, TextScorer, embedded_clip, embedded_identity
from editing.styleclip import plain_text
from editing.styles import gan_of, own_styles, sample_styles, style_places, with_samples, with_styles
from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Target
from unified.errors import UserError
from unified.files import cache_folder, write_file

_KEY = "unified-mapper"


@dataclass(frozen=True)
class MapperSettings:
    """Weights of the terms as the paper's for hair styles: 1 - cos(picture, text) + l2 mean |w' - w|^2 + identity
    (1 - cos(who, who0)). steps, batch, lr: of Adam; the authors take 50 000 steps of 2 with Ranger, at the same rate.
    """

    steps: int = 500
    batch: int = 8
    lr: float = 0.5
    l2: float = 0.8
    identity: float = 0.1


def train_mapper(
    backbone: Backbone,
    text: str,
    scorer: TextScorer,
    embedder: Embedder | None = None,
    *,
    settings: MapperSettings = MapperSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Mapper:
    """A mapper that makes pictures fit `text`, trained on the generator's own samples.

    The paper trains on inverted photographs; samples need none. Layers are grouped as in the paper: 0-3, 4-7, and
    the others. embedder: None leaves the identity term out.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("Training a mapper needs gradients: call it outside of torch.inference_mode().")
    gan, rng, progress = gan_of(backbone), rng or Random(0).child("mapper"), progress or Silent()
    mapper = _empty(backbone)
    wanted = scorer.text_features([text])[0]
    optimiser = torch.optim.Adam(mapper.parameters(), lr=settings.lr)
    progress.start(f"mapper: {text}", settings.steps)
    with torch.enable_grad(), backbone.bound() as view:
        for step in range(settings.steps):
            rows = range(step * settings.batch, (step + 1) * settings.batch)
            w = sample_styles(backbone, rows, truncation=1.0, rng=rng)
            moved = mapper(w)
            images = gan.render(view, moved)
            loss = (1 - scorer.image_features(images) @ wanted).mean() + settings.l2 * (moved - w).square().mean()
            if embedder is not None:
                with torch.no_grad():
                    before = embedder.embed(gan.render(view, w).clamp(0, 1))
                loss = loss + settings.identity * (1 - (embedder.embed(images) * before).sum(1)).mean()
            if not bool(torch.isfinite(loss)):
                raise UserError("Training the mapper met a loss that is not finite: lower its learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            progress.advance(step + 1, loss=float(loss.detach()))
    progress.finish()
    return mapper.requires_grad_(False)


def _empty(backbone: Backbone) -> Mapper:
    number, width = gan_of(backbone).style_shape()
    groups = layer_groups(number)
    parts = [span for name, span in groups.items() if name != "all"] or [groups["all"]]
    return Mapper(parts, width).to(backbone.dtype)


def mapper_file(backbone: Backbone, text: str, settings: MapperSettings) -> Path:
    """Where the mapper of a text lies, once it is trained."""
    digest = hashlib.sha256(json.dumps([text, asdict(settings)]).encode()).hexdigest()[:16]
    return cache_folder() / "mappers" / f"{backbone.fingerprint}-{digest}.safetensors"


def save_mapper(mapper: Mapper, path: Path, *, text: str, backbone: Backbone) -> Path:
    """Write it, with the text and the generator it is of."""
    about = json.dumps({"text": text, "backbone": backbone.id, "fingerprint": backbone.fingerprint})
    tensors = {name: value.detach().contiguous().clone() for name, value in mapper.state_dict().items()}
    return write_file(path, save(tensors, metadata={_KEY: about}))


def load_mapper(path: Path, backbone: Backbone) -> Mapper:
    """Raises UserError if it is damaged or of another generator."""
    mapper = _empty(backbone)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            mapper.load_state_dict({name: file.get_tensor(name).clone() for name in mapper.state_dict()})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is no mapper of this generator ({error}): delete it, and it is trained again."
        ) from error
    if about["fingerprint"] != backbone.fingerprint:
        raise UserError(
            f"The mapper {path} was trained on {about['backbone']}, and this is {backbone.id}: train it again."
        )
    return mapper.requires_grad_(False)


@dataclass(frozen=True)
class TextMapper(EditScheme):
    """Move the concept's styles by a mapper trained for `target.prompt`; it is trained at first use and kept.

    clip, identity: give the scorers when they are needed (None: no identity term).
    """

    name: ClassVar[str] = "text-mapper"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})

    settings: MapperSettings = MapperSettings()
    clip: Callable[[], TextScorer] = embedded_clip
    identity: Callable[[], Embedder | None] = embedded_identity

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        bound = with_samples(backbone, concepts, target, rng=rng)
        if not target.prompt:
            return bound
        text = plain_text(target.prompt, concepts)
        path = mapper_file(backbone, text, self.settings)
        if path.exists():
            mapper = load_mapper(path, backbone)
        else:
            mapper = train_mapper(
                backbone, text, self.clip(), self.identity(), settings=self.settings, progress=progress
            )
            save_mapper(mapper, path, text=text, backbone=backbone)
        with torch.no_grad(), backbone.bound(*bound) as view:
            styles = mapper(own_styles(view).read())
        mean, _ = gan_of(backbone).style_statistics()
        return [with_styles(c, styles, mean) if style_places(c) else c for c in bound]


schemes.register(TextMapper.name, TextMapper())
