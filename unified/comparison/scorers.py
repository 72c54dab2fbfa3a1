"""The feature extractors of a comparison, and what they say about one picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unified.comparison.ask import Ask
from unified.contract.keys import digest
from unified.errors import UserError
from unified.metrics.reconstruction import psnr, ssim
from unified.metrics.similarity import cosine_matrix
from unified.zoo.registry import resolve


class IdentityExtractor(Protocol):
    """Who is shown: pictures [N,3,H,W] in 0..1 -> features [N,D]."""

    def embed(self, images: Tensor) -> Tensor: ...


class ImageTextExtractor(Protocol):
    """Pictures [N,3,H,W] in 0..1 and texts into one space of features, [N,D]."""

    def image_features(self, images: Tensor) -> Tensor: ...

    def text_features(self, texts: Sequence[str]) -> Tensor: ...


class AttributeReader(Protocol):
    """The value of every attribute that a picture shows."""

    def names(self, images: Tensor) -> list[dict[str, str]]: ...


@dataclass(frozen=True)
class Metric:
    """A column: `key` in tables of numbers, `title` in headings, whether more is better, and what it says.

    over: what its values are averaged over, innermost first.
    """

    key: str
    title: str
    higher: bool
    digits: int
    meaning: str
    over: str


METRICS: tuple[Metric, ...] = (
    Metric(
        "identity",
        "Identity",
        True,
        3,
        "cosine with the reference pictures, who is shown",
        "references > images > prompts",
    ),
    Metric("clip-i", "CLIP-I", True, 3, "cosine with the reference pictures", "references > images > prompts"),
    Metric(
        "clip-t",
        "CLIP-T",
        True,
        3,
        "cosine with the prompt, the category in place of the name",
        "images > prompts",
    ),
    Metric("attributes", "Attributes", True, 2, "share of requested attributes that are seen", "images > prompts"),
    Metric("psnr", "PSNR", True, 1, "of the reproduced pictures, in decibels", "pictures"),
    Metric("ssim", "SSIM", True, 3, "of the reproduced pictures", "pictures"),
    Metric("lpips", "LPIPS", False, 3, "perceptual distance of the reproduced pictures", "pictures"),
)
CELL_METRICS = ("identity", "clip-i", "clip-t", "attributes")
RECONSTRUCTION_METRICS = ("psnr", "ssim", "lpips")

_EMBEDDED = {
    "identity": ("avatars/identity", "unified.extractors.identity:load"),
    "clip": ("avatars/clip", "unified.extractors.clip:load"),
    "attributes": ("avatars/attributes", "unified.extractors.attributes:load"),
    "perceptual": ("lpips-alex v0.1", "unified.metrics.lpips:embedded_lpips"),
}


@dataclass(frozen=True)
class Scorers:
    """The extractors; one that is None is left out of the scores. `names`: part -> what the reports call it.

    perceptual: pictures a, b [N,3,H,W] in 0..1 -> distance [N].
    """

    identity: IdentityExtractor | None = None
    clip: ImageTextExtractor | None = None
    attributes: AttributeReader | None = None
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def extractor(self, metric: str) -> str:
        """Which extractor a metric's values come from."""
        part = {"clip-i": "clip", "clip-t": "clip", "lpips": "perceptual"}.get(metric, metric)
        return "pixels" if metric in ("psnr", "ssim") else self.names.get(part, part)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when scores would: of the extractors' weights, or their classes where there are none."""
        digest = hashlib.sha256()
        for part in ("identity", "clip", "attributes", "perceptual"):
            extractor: Any = getattr(self, part)
            digest.update(f"{part}:{type(extractor).__qualname__}:{self.names.get(part)}".encode())
            modules = [extractor, *vars(extractor).values()] if hasattr(extractor, "__dict__") else [extractor]
            for module in modules:
                if isinstance(module, nn.Module):
                    for name, value in sorted(module.state_dict().items()):
                        digest.update(name.encode())
                        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
                    break
        return digest.hexdigest()[:16]


def embedded_scorers() -> Scorers:
    """The extractors of this installation; those without weights are left out, with a note."""
    parts: dict[str, Any] = {}
    names: dict[str, str] = {}
    notes: list[str] = []
    for part, (name, load) in _EMBEDDED.items():
        try:
            parts[part] = resolve(load)()
            names[part] = name
        except (UserError, ModuleNotFoundError) as error:
            notes.append(f"Scores of {name} are left out: {error}")
    return Scorers(**parts, names=names, notes=tuple(notes))


class Judge:
    """Scores pictures against one concept's reference pictures [R,3,H,W] in 0..1 and the prompts."""

    def __init__(self, scorers: Scorers, references: Tensor, asks: Sequence[Ask]) -> None:
        self.scorers = scorers
        self._key = digest(scorers.fingerprint, references.detach().cpu().double().numpy().tobytes())
        with torch.no_grad():
            self._identity = None if scorers.identity is None else scorers.identity.embed(references)
            self._images = None if scorers.clip is None else scorers.clip.image_features(references)
            texts = [ask.neutral for ask in asks]
            features = None if scorers.clip is None else scorers.clip.text_features(texts)
            self._texts = {} if features is None else dict(zip(texts, features, strict=True))

    def marker(self, ask: Ask | None = None) -> str:
        """Stands beside stored scores: they hold as long as it is the same."""
        return digest(self._key, "" if ask is None else [ask.neutral, ask.requests])

    def among_references(self) -> dict[str, float]:
        """Fidelity of the reference pictures to each other, mean over pairs: what to expect at most."""
        found = {}
        for name, features in (("identity", self._identity), ("clip-i", self._images)):
            if features is not None and len(features) > 1:
                others = ~torch.eye(len(features), dtype=torch.bool)
                found[name] = float(cosine_matrix(features, features)[others].mean())
        return found

    @torch.no_grad()
    def cell(self, picture: Tensor, ask: Ask) -> tuple[dict[str, float], dict[str, str]]:
        """Scores of one picture [3,H,W] by metric, and what is seen of the requested attributes."""
        scorers, image = self.scorers, picture[None]
        scores: dict[str, float] = {}
        seen: dict[str, str] = {}
        if scorers.identity is not None and self._identity is not None:
            scores["identity"] = float(cosine_matrix(scorers.identity.embed(image), self._identity).mean())
        if scorers.clip is not None and self._images is not None:
            features = scorers.clip.image_features(image)
            scores["clip-i"] = float(cosine_matrix(features, self._images).mean())
            scores["clip-t"] = float(cosine_matrix(features, self._texts[ask.neutral][None]).mean())
        if scorers.attributes is not None and ask.requests:
            shown = scorers.attributes.names(image)[0]
            known = [(attribute, value) for attribute, value in ask.requests if attribute in shown]
            if known:
                seen = {attribute: shown[attribute] for attribute, _ in known}
                scores["attributes"] = sum(seen[attribute] == value for attribute, value in known) / len(known)
        return scores, seen

    @torch.no_grad()
    def reconstruction(self, pictures: Tensor, references: Tensor) -> dict[str, float]:
        """PSNR, SSIM and LPIPS of [N,3,H,W] against the references at the same size, averaged over pictures.

        A measure that needs larger pictures than these is left out.
        """
        measures: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
            "psnr": psnr,
            "ssim": ssim,
            "lpips": self.scorers.perceptual,
        }
        scores = {}
        for name, measure in measures.items():
            if measure is None:
                continue
            try:
                scores[name] = float(measure(pictures, references).double().mean())
            except UserError:
                continue
        return scores
