"""What steps in CLIP's space mean in a GAN's style vectors: prepared once for a generator, used for any text.

DeltaEdit (Lyu et al. 2023) learns, from pairs of samples and without any text, which step of the style goes with a
step in CLIP's space, and asks with the step between two texts. Here the mapper is linear and found in closed form,
from w and not from style channels: pairs that differ in everything at once tell it what goes with one thing alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from editing.direction_file import KEY, check_fingerprint, describe, made_for
from editing.latent.regression import steps_matrix
from editing.rendering import render_shifted
from editing.scorers import TextScorer
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.directions_hook import direction_finders
from unified.errors import UserError
from unified.files import cache_folder, write_file
from unified.zoo.training import BuildSettings

METHOD = "text-steps"
FILE = "text-steps.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class StepSettings:
    """samples: pictures looked at. ridge: see `steps_matrix`. batch: pictures at a time."""

    samples: int = 5_000
    ridge: float = 0.03
    batch: int = 50


@dataclass(frozen=True, eq=False)
class Steps:
    """matrix: [D, width], the step of w for a unit step along each feature.

    scorer: who saw the pictures. data: how many.
    """

    matrix: Tensor
    scorer: str
    data: str

    def shift(self, step: Tensor) -> Tensor:
        """The step of w [width] for a step [D] in features."""
        return step.to(self.matrix.dtype) @ self.matrix


@torch.no_grad()
def measure_steps(
    backbone: Backbone,
    scorer: TextScorer,
    *,
    settings: StepSettings = StepSettings(),
    rng: Random,
    progress: Progress,
) -> Tensor:
    """The matrix [D, width] of `Steps`, from random samples."""
    progress.start("pictures and their features", settings.samples)
    latents, features = [], []
    for start in range(0, settings.samples, settings.batch):
        rows = range(start, min(start + settings.batch, settings.samples))
        drawn = sample_styles(backbone, rows, truncation=1.0, rng=rng)
        latents.append(drawn[:, 0])
        features.append(scorer.image_features(render_shifted(backbone, drawn)).float())
        progress.advance(rows[-1] + 1)
    progress.finish()
    return steps_matrix(torch.cat(features), torch.cat(latents), ridge=settings.ridge)


def user_file(fingerprint: str) -> Path:
    """Where the steps of a generator that is not embedded lie."""
    return cache_folder() / "text-steps" / f"{fingerprint}.safetensors"


def steps_file(fingerprint: str) -> Path | None:
    """The steps of a generator: the user's own, else embedded ones; None if there are neither."""
    return made_for(fingerprint, user_file(fingerprint), FILE)


def save_steps(steps: Steps, backbone: Backbone, path: Path) -> Path:
    """Write them; half precision suffices for steps."""
    description = {
        "format": _FORMAT,
        "method": METHOD,
        "backbone": backbone.id,
        "fingerprint": backbone.fingerprint,
        "extractor": steps.scorer,
        "data": steps.data,
    }
    tensors = {"matrix": steps.matrix.half().contiguous()}
    return write_file(path, save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)}))


def load_steps(path: Path, backbone: Backbone) -> Steps:
    """Raises UserError if the file is damaged or was made for other weights."""
    description = describe(path)
    check_fingerprint(path, description, backbone)
    with safe_open(path, framework="pt") as file:
        matrix = file.get_tensor("matrix").to(backbone.dtype)
    if matrix.ndim != 2 or matrix.shape[1] != gan_of(backbone).style_shape()[1]:
        raise UserError(f"The steps in {path} are of other style vectors than those of {backbone.id}.")
    return Steps(matrix, description["extractor"], description["data"])


@dataclass(frozen=True)
class StepFinder:
    """`unified edit --find text-steps`: for prompts, and edits like "text-steps:a smiling person"."""

    summary: str = "what steps in CLIP's space mean in style vectors, for edits by text (after Lyu et al. 2023)"

    def find(self, backbone: Backbone, *, samples: int | None, progress: Progress) -> str:
        path = find_steps(backbone, samples=samples, path=user_file(backbone.fingerprint), progress=progress)
        return f"edits by text, such as '{METHOD}:a person with glasses': {path}"


def find_steps(
    backbone: Backbone, *, samples: int | None, path: Path, progress: Progress, rng: Random | None = None
) -> Path:
    """Measure the steps as the embedded CLIP sees them, on `samples` pictures, and store them."""
    from unified.extractors import clip

    scorer = clip.load()
    settings = StepSettings() if samples is None else StepSettings(samples=samples)
    rng = rng or Random(0).child("directions")
    matrix = measure_steps(backbone, scorer, settings=settings, rng=rng, progress=progress)
    data = f"{settings.samples:,} random samples"
    return save_steps(Steps(matrix, scorer.name, data), backbone, path)


def build(settings: BuildSettings) -> None:
    """Builder of avatars/text-steps. `settings.steps` is the number of samples."""
    from unified.loading import load
    from unified.progress import Bar

    backbone = load("avatars/stylegan2")
    rng = Random(settings.seed).child("directions")
    path = find_steps(backbone, samples=settings.steps, path=settings.out / FILE, progress=Bar(), rng=rng)
    write_file(settings.out / "card.md", card(backbone, path, settings.steps).encode())


def card(backbone: Backbone, path: Path, samples: int | None) -> str:
    """What the file holds, how it was made, and what it cannot do."""
    more = "" if samples is None else f" --steps {samples}"
    return f"""# avatars/text-steps

What a step in the space of avatars/clip means in the style vectors of {backbone.id} (weights {backbone.fingerprint}):
one matrix, by which a prompt edits an inverted picture, such as `unified generate me.safetensors --prompt "<me> wearing
sunglasses"`. The idea of DeltaEdit (Lyu et al. 2023), with a linear mapper in closed form.

- Data: {load_steps(path, backbone).data}; no text was seen.
- Ridge: {StepSettings().ridge:g} of the largest principal variance of the features.
- What avatars/clip does not tell apart in words (most mouths, see its card) no prompt can ask for.
- Made by: `unified zoo build avatars/text-steps{more}`
"""


direction_finders.register(METHOD, StepFinder())
