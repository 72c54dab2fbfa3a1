"""Named attribute directions of a GAN: a file beside its weights, and how such a file is made.

A direction belongs to one value of one attribute and is named "attribute=value" ("mouth=smile"). Its unit:
strength 1 moves w by one standard deviation of the generator's own samples along the direction, so that
strengths mean the same for every direction and generator; -3 to 3 is what samples span.

The file is safetensors, name -> unit vector [width] (or [number, width], one for each layer), with JSON in
the metadata: the generator's fingerprint, who judged the samples, how many there were, and for each
direction the deviation in w, the accuracy of its boundary and how often samples show the value.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from editing.latent.interfacegan import boundary, conditional
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.errors import UserError
from unified.files import write_file
from unified.zoo.registry import WEIGHTS
from unified.zoo.training import BuildSettings

FORMAT = 1
FILE = "directions.safetensors"
_KEY = "unified-directions"
_BATCH = 64
SAMPLES = 20_000


class Classifier(Protocol):
    """Judges attributes: `vocabulary` has the values of each, `logits` their scores on pictures in 0..1."""

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]: ...

    def logits(self, images: Tensor) -> Mapping[str, Tensor]:
        """[N,3,H,W] -> for each attribute [N, values]."""
        ...


# --- the directions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direction:
    """One direction.

    vector: unit vector [width], or [number, width] with a vector for each layer. deviation: standard
    deviation of samples along it, in w: what strength 1 moves by. accuracy: of its boundary on held-out
    samples, 0..1. share: of the samples that show the value, 0..1.
    """

    vector: Tensor
    deviation: float
    accuracy: float = float("nan")
    share: float = float("nan")

    def shift(self, number: int) -> Tensor:
        """What strength 1 adds to styles, [number, width]."""
        step = self.deviation * self.vector
        return step.expand(number, -1) if step.ndim == 1 else step


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of one generator.

    items: by name. backbone, fingerprint: the generator. extractor: who judged. samples: how many were
    judged. left_out: values without a direction, and why.
    """

    items: Mapping[str, Direction]
    backbone: str
    fingerprint: str
    extractor: str = ""
    samples: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name and alias, sorted: what edits can ask for."""
        return sorted({*self.items, *aliases(self.items)})

    def find(self, name: str) -> tuple[str, float]:
        """The full name that `name` stands for, and the sign. Raises UserError with the nearest names."""
        if name in self.items:
            return name, 1.0
        plain = " ".join(name.lower().replace("_", " ").split())
        known = aliases(self.items)
        if plain in known:
            return known[plain]
        near = difflib.get_close_matches(plain, [*self.items, *known], n=5, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(sorted(known)[:12])}, ..."
        raise UserError(f"{self.backbone} has no direction {name!r}; {hint}. `unified edit --list` shows all.")

    def shift(self, asked: str, number: int) -> Tensor:
        """What strength 1 of an edit adds to styles, [number, width].

        asked: "NAME", "NAME@4-7" for the layers 4 to 7 alone (from 0), "NAME|OTHER|OTHER" to leave the scores
        of other attributes as they are, or "NAME|OTHER@4-7". Raises UserError for what it cannot read.
        """
        text, separator, layers = asked.partition("@")
        name, *others = (part.strip() for part in text.split("|"))
        found, sign = self.find(name)
        direction = self.items[found]
        if others:
            vectors = [self.items[self.find(other)[0]].vector for other in others]
            if any(v.ndim != 1 for v in (direction.vector, *vectors)):
                raise UserError(f"{asked!r}: only directions with one vector for all layers can leave others alone.")
            direction = Direction(conditional(direction.vector, *vectors), direction.deviation)
        shift = sign * direction.shift(number)
        if separator:
            first, last = _layer_range(asked, layers, number)
            kept = torch.zeros(number, 1, dtype=shift.dtype)
            kept[first : last + 1] = 1
            shift = shift * kept
        return shift

    def total(self, edits: Mapping[str, float], number: int) -> Tensor | None:
        """What all edits together add to styles, [number, width]; None for none but zeros.

        The order in which the edits are given does not matter, to the last bit.
        """
        shifts = {asked: self.shift(asked, number) for asked in sorted(edits)}
        bad = [f"{name}={edits[name]}" for name in shifts if not abs(edits[name]) < float("inf")]
        if bad:
            raise UserError(f"The strength of an edit must be a finite number; {', '.join(bad)} was given.")
        parts = [edits[asked] * shift for asked, shift in shifts.items() if edits[asked] != 0]
        return torch.stack(parts).sum(0) if parts else None


def _layer_range(asked: str, layers: str, number: int) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", layers)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < number:
        raise UserError(f"{asked!r}: write layers as '@first-last' within 0-{number - 1}, such as '@4-7'.")
    return first, last


# --- names ------------------------------------------------------------------------------------------------

_LEADING = re.compile(r"^(?:with|wearing|in|on|looking)\s+(?:(?:an?|the)\s+)?")
_WITHOUT = re.compile(r"^(?:without|with no)\s+(?:(?:an?|the)\s+)?")


def aliases(names: Iterable[str]) -> dict[str, tuple[str, float]]:
    """Short names for "attribute=value" names: alias -> (full name, sign).

    Made by rule: the value, where one attribute alone has it ("smile"); the caption's wording and its last
    words ("with blonde hair", "blonde hair"); for an absence, what is absent with the opposite sign
    ("glasses" is away from "glasses=none"). What two directions would claim is nobody's alias.
    """
    claims: dict[str, set[tuple[str, float]]] = {}
    full = [name for name in names if "=" in name]
    values = [name.partition("=")[2] for name in full]
    for name in full:
        attribute, _, value = name.partition("=")
        own: list[tuple[str, float]] = []
        if value == "none":
            own.append((attribute.replace("_", " "), -1.0))
        elif values.count(value) == 1:
            own.append((value, 1.0))
        wording = _wording(attribute, value)
        if wording:
            own.append((wording, 1.0))
            if _WITHOUT.match(wording):
                own.append((_WITHOUT.sub("", wording), -1.0))
            else:
                own.append((_LEADING.sub("", wording), 1.0))
        for alias, sign in own:
            claims.setdefault(alias, set()).add((name, sign))
    return {alias: next(iter(found)) for alias, found in sorted(claims.items()) if len(found) == 1}


def _wording(attribute: str, value: str) -> str:
    from unified.avatars.captions import phrase

    try:
        return phrase(attribute, value)
    except UserError:  # an attribute of another vocabulary than the avatars'
        return ""


# --- the file ---------------------------------------------------------------------------------------------


def save_directions(directions: Directions, path: str | Path) -> Path:
    """Write a direction file; returns its path."""
    described = {
        name: {"deviation": d.deviation, "accuracy": d.accuracy, "share": d.share}
        for name, d in directions.items.items()
    }
    description = {
        "format": FORMAT,
        "unit": "strength 1 moves w by `deviation` along the unit vector: one standard deviation of samples",
        **{k: v for k, v in asdict_without_items(directions).items()},
        "directions": described,
    }
    text = json.dumps(description, sort_keys=True)
    tensors = {name: d.vector.detach().float().contiguous().clone() for name, d in directions.items.items()}
    return write_file(path, save(tensors, metadata={_KEY: text}))


def asdict_without_items(directions: Directions) -> dict[str, Any]:
    """The fields of `directions` but the directions themselves, as JSON values."""
    return {
        "backbone": directions.backbone,
        "fingerprint": directions.fingerprint,
        "extractor": directions.extractor,
        "samples": directions.samples,
        "left_out": dict(directions.left_out),
    }


def _describe(path: Path) -> dict[str, Any]:
    """The JSON of a direction file. Raises UserError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description: dict[str, Any] = json.loads(metadata[_KEY])
        if description["format"] > FORMAT:
            raise UserError(f"{path} has direction format {description['format']}; upgrade unified to read it.")
        return description
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no direction file, or only a part of one ({error}). Find the directions again.") from error


def load_directions(path: str | Path, backbone: Backbone) -> Directions:
    """Read a direction file of `backbone`.

    Raises UserError if it is missing, damaged, does not fit, or was made for other weights.
    """
    path = Path(path)
    description = _describe(path)
    if description["fingerprint"] != backbone.fingerprint:
        raise UserError(
            f"The directions in {path} were found on {description['backbone']} (weights"
            f" {description['fingerprint']}); this is {backbone.id} (weights {backbone.fingerprint}). Find them again"
            " for this generator: `unified edit --find`."
        )
    number, width = gan_of(backbone).style_shape()
    items = {}
    with safe_open(path, framework="pt") as file:
        for name, values in description["directions"].items():
            vector = file.get_tensor(name).clone()
            if tuple(vector.shape) not in ((width,), (number, width)) or not bool(torch.isfinite(vector).all()):
                raise UserError(f"{path}: the direction {name!r} has shape {tuple(vector.shape)}; expected [{width}].")
            items[name] = Direction(vector, **values)
    return Directions(
        items=items,
        **{key: description[key] for key in ("backbone", "fingerprint", "extractor", "samples", "left_out")},
    )


def user_file(fingerprint: str) -> Path:
    """Where the directions of a generator that is not embedded lie: in UNIFIED_CACHE or ~/.cache/unified."""
    root = os.environ.get("UNIFIED_CACHE")
    folder = Path(root) if root else Path.home() / ".cache" / "unified"
    return folder / "directions" / f"{fingerprint}.safetensors"


def direction_file(fingerprint: str) -> Path | None:
    """The direction file of a generator: the user's own, else an embedded one; None if there is neither."""
    own = user_file(fingerprint)
    if own.exists():
        return own
    for path in sorted(WEIGHTS.glob(f"*/{FILE}")):
        if _describe(path)["fingerprint"] == fingerprint:
            return path
    return None


def directions_for(backbone: Backbone) -> Directions:
    """The named directions of a GAN. Raises UserError, saying how to make them, if there are none."""
    gan_of(backbone)
    path = direction_file(backbone.fingerprint)
    if path is None:
        raise UserError(
            f"No attribute directions are known for {backbone.id} (weights {backbone.fingerprint}): find them with"
            " `unified edit --find`, or for the embedded model with `unified zoo build avatars/directions`."
        )
    return load_directions(path, backbone)


# --- finding them -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FindSettings:
    """How directions are found.

    samples: judged pictures. fractions: least and largest share of them that a boundary is fitted to at each
    end; within these, as many as show the value. truncation: psi of the samples. softness: see `boundary`.
    """

    samples: int = 10_000
    fractions: tuple[float, float] = (0.02, 0.1)
    truncation: float = 1.0
    softness: float = 1.0
    batch: int = _BATCH


def log_odds(logits: Tensor) -> Tensor:
    """log p/(1-p) of each value, [N, V], from logits [N, V]: orders as p does, and never saturates."""
    value = torch.eye(logits.shape[1], dtype=torch.bool)
    others = logits.unsqueeze(1).masked_fill(value, float("-inf")).logsumexp(2)
    return logits - others


@torch.no_grad()
def judge(
    backbone: Backbone,
    classifier: Classifier,
    rows: Sequence[int],
    *,
    truncation: float = 1.0,
    shift: Tensor | None = None,
    batch: int = _BATCH,
    rng: Random,
    progress: Progress | None = None,
    label: str = "judging samples",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents w [N, width] of random samples, and the log-odds [N, values] of every attribute on their pictures.

    rows: which samples, as streams of `rng`. shift: [number, width] added to the styles before rendering.
    """
    gan = gan_of(backbone)
    progress = progress or Silent()
    progress.start(label, len(rows))
    latents: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {name: [] for name in classifier.vocabulary}
    with backbone.bound() as view:
        for start in range(0, len(rows), batch):
            styles = sample_styles(backbone, rows[start : start + batch], truncation=truncation, rng=rng)
            latents.append(styles[:, 0])
            moved = styles if shift is None else styles + shift.to(styles.dtype)
            logits = classifier.logits(gan.render(view, moved).clamp(0, 1))
            for name in scores:
                scores[name].append(log_odds(logits[name]))
            progress.advance(min(start + batch, len(rows)))
    progress.finish()
    return torch.cat(latents), {name: torch.cat(parts) for name, parts in scores.items()}


def directions_from(
    latents: Tensor, scores: Mapping[str, Tensor], vocabulary: Mapping[str, Sequence[str]], settings: FindSettings
) -> tuple[dict[str, Direction], dict[str, str]]:
    """Directions by name, and the values left out with the reason.

    latents: [N, width]; scores: log-odds [N, values] of each attribute. A value is left out if too few
    samples show it: then the highest scores tell nothing of it.
    """
    items: dict[str, Direction] = {}
    left_out: dict[str, str] = {}
    least, largest = settings.fractions
    for attribute, values in vocabulary.items():
        for place, value in enumerate(values):
            name, score = f"{attribute}={value}", scores[attribute][:, place]
            share = float((score > 0).float().mean())
            if share < least / 2:
                left_out[name] = f"{100 * share:.2f} % of the samples show it"
                continue
            if share > 1 - least / 2:
                left_out[name] = f"{100 * share:.2f} % of the samples show it, there is no contrast"
                continue
            found = boundary(
                latents, score, fraction=min(max(share, least), largest), softness=settings.softness
            )
            deviation = float((latents @ found.normal).std())
            items[name] = Direction(found.normal, deviation, found.accuracy, share)
    return items, left_out


def find_directions(
    backbone: Backbone,
    classifier: Classifier,
    *,
    extractor: str,
    settings: FindSettings = FindSettings(),
    rng: Random | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Directions for every value that the classifier knows and the generator shows (InterFaceGAN).

    Random samples are rendered and judged; each value's direction is the normal of the boundary between the
    samples that show it most and least. extractor: the classifier's name, kept in the file. Raises UserError
    if the backbone is no GAN, or no value has a direction.
    """
    latents, scores = judge(
        backbone,
        classifier,
        range(settings.samples),
        truncation=settings.truncation,
        batch=settings.batch,
        rng=rng or Random(0).child("directions"),
        progress=progress,
    )
    items, left_out = directions_from(latents, scores, classifier.vocabulary, settings)
    if not items:
        raise UserError(f"{extractor} sees none of its attributes vary in samples of {backbone.id}: no direction found.")
    return Directions(items, backbone.id, backbone.fingerprint, extractor, settings.samples, left_out)


def effect(
    backbone: Backbone, classifier: Classifier, directions: Directions, name: str, *, strength: float, count: int = 64
) -> float:
    """Share of `count` fresh samples that show the value of `name` after moving by `strength`, 0..1."""
    attribute, _, value = name.partition("=")
    number, _ = gan_of(backbone).style_shape()
    _, scores = judge(
        backbone,
        classifier,
        range(count),
        shift=strength * directions.shift(name, number),
        rng=Random(0).child("effect"),
    )
    place = list(classifier.vocabulary[attribute]).index(value)
    return float((scores[attribute][:, place] > 0).float().mean())


def build(settings: BuildSettings) -> None:
    """Builder of avatars/directions: the directions of avatars/stylegan2 as avatars/attributes sees them.

    `settings.steps` is the number of samples; writes directions.safetensors and card.md into `settings.out`.
    """
    from unified.extractors import attributes
    from unified.loading import load
    from unified.progress import Bar

    backbone, classifier = load("avatars/stylegan2"), attributes.load()
    find = FindSettings(samples=settings.pick_steps(SAMPLES), batch=settings.pick_batch(_BATCH))
    directions = find_directions(
        backbone,
        classifier,
        extractor="avatars/attributes",
        settings=find,
        rng=Random(settings.seed).child("directions"),
        progress=Bar(),
    )
    effects = {
        name: (
            effect(backbone, classifier, directions, name, strength=0.0),
            effect(backbone, classifier, directions, name, strength=3.0),
        )
        for name in directions.items
    }
    save_directions(directions, settings.out / FILE)
    write_file(settings.out / "card.md", card(directions, find, effects).encode())


def card(directions: Directions, settings: FindSettings, effects: Mapping[str, tuple[float, float]]) -> str:
    """What a user should know about the directions, in Markdown."""
    rows = "\n".join(
        f"| {name} | {100 * d.share:.1f} % | {100 * d.accuracy:.1f} % | {100 * effects[name][0]:.0f} % |"
        f" {100 * effects[name][1]:.0f} % |"
        for name, d in directions.items.items()
    )
    left_out = "\n".join(f"- {name}: {reason}" for name, reason in directions.left_out.items()) or "- none"
    return f"""# avatars/directions

Directions in the W space of {directions.backbone} (weights {directions.fingerprint}) along which one
attribute changes: InterFaceGAN (Shen et al. 2020). Judge: {directions.extractor}.

- {directions.samples:,} random samples, truncation {settings.truncation}; a linear support vector classifier
  between the samples that show a value most and least ({100 * settings.fractions[0]:.0f} to
  {100 * settings.fractions[1]:.0f} % at each end), 30 % of them held out for the accuracy.
- Strength 1 moves w by one standard deviation of the samples along the direction.
- Made by: `unified zoo build avatars/directions`

Share of the samples that show the value, accuracy of the boundary, and share of 64 other samples that show
it before and after moving by strength 3:

| direction | shown | accuracy | before | after |
|---|---|---|---|---|
{rows}

Without a direction:

{left_out}
"""
