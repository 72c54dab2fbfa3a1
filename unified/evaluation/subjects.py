"""Protocols that give subjects and prompts: references against pictures, and pictures against prompts.

A protocol is data (:class:`Protocol`): which extractor, how a cosine becomes a score, and what is averaged
over what. Reading the data set's own files is the business of one module for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from unified.errors import UserError
from unified.evaluation.networks import ImageFeatures, ImageTextFeatures
from unified.evaluation.table import Measured, Result
from unified.images import pictures_in, read_images
from unified.metrics.bootstrap import mean_interval
from unified.metrics.score import Score
from unified.metrics.similarity import (
    FIDELITY_AVERAGING,
    PROMPT_AVERAGING,
    concept_fidelity,
    cosine_matrix,
    prompt_following,
)


@dataclass(frozen=True)
class Subject:
    """Files of one subject.

    references: its own pictures. texts: the prompts without any identifier, for the text scores. generated:
    for each prompt the pictures made for it.
    """

    name: str
    references: tuple[Path, ...]
    texts: tuple[str, ...]
    generated: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Request:
    """What a data set asks for of one subject.

    category: its class word. prompts: with {} where the concept goes. texts: the same without any identifier.
    """

    name: str
    references: tuple[Path, ...]
    category: str
    prompts: tuple[str, ...]
    texts: tuple[str, ...]


class Averaging(StrEnum):
    """BY_PROMPT: over the pictures of a prompt, then over prompts. POOLED: over all pictures of a subject alike."""

    BY_PROMPT = "by prompt"
    POOLED = "pooled"


@dataclass(frozen=True)
class Measure:
    """metric: its name. extractor: which of the given ones. text: against the prompt, else the references.

    weight: of max(cosine, 0), as CLIPScore has it (Hessel et al. 2021, equation 1); None: the plain cosine.
    """

    metric: str
    extractor: str
    text: bool = False
    weight: float | None = None


@dataclass(frozen=True)
class Protocol:
    """extractors: part -> the weights that published values are taken with. source: where it is defined."""

    name: str
    measures: tuple[Measure, ...]
    averaging: Averaging
    extractors: Mapping[str, str]
    source: str


def evaluate_subjects(
    protocol: Protocol,
    subjects: Sequence[Subject],
    extractors: Mapping[str, ImageFeatures | ImageTextFeatures],
    *,
    run: str,
    masks: Callable[[Path], Tensor] | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> Result:
    """Score every subject, then average over subjects, with intervals over subjects.

    extractors: by the protocol's names of them; measures without theirs are left out.
    masks: of a picture's file, [H,W] in 0..1: then only the foreground is compared, on white, in the scores
        of fidelity; the scores of prompts are left out, as the prompt speaks of the background too.
    done: told the name of each subject when it is finished.
    """
    measures = [m for m in protocol.measures if m.extractor in extractors and not (masks and m.text)]
    if not measures or not subjects:
        raise UserError(f"There is nothing to measure for {protocol.name}: give an extractor and at least one subject.")
    values: dict[str, list[float]] = {measure.metric: [] for measure in measures}
    for subject in subjects:
        pictures = _Pictures(subject, masks)
        for measure in measures:
            values[measure.metric].append(_score(measure, protocol.averaging, pictures, extractors[measure.extractor]))
        done(subject.name)
    scores = [_measured(m, values[m.metric], protocol, extractors, bool(masks)) for m in measures]
    return Result(run, protocol.name, {found.score.metric: found for found in scores})


class _Pictures:
    """The pictures of one subject, read once; features of each extractor, computed once."""

    def __init__(self, subject: Subject, masks: Callable[[Path], Tensor] | None) -> None:
        self.subject = subject
        self._references = [_read(path, masks) for path in subject.references]
        self._generated = [[_read(path, masks) for path in paths] for paths in subject.generated]
        self._known: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def features(self, extractor: ImageFeatures) -> tuple[Tensor, list[Tensor]]:
        """Of the references [R,D], and of the pictures of each prompt [n,D]."""
        if extractor.name not in self._known:
            drawn = [picture for pictures in self._generated for picture in pictures]
            found = extractor.images([*self._references, *drawn]).double()
            references = found[: len(self._references)]
            parts = found[len(self._references) :].split([len(pictures) for pictures in self._generated])
            self._known[extractor.name] = references, list(parts)
        return self._known[extractor.name]


def _read(path: Path, masks: Callable[[Path], Tensor] | None) -> Tensor:
    picture = read_images(path)[0]
    return picture if masks is None else foreground(picture, masks(path), name=str(path))


def foreground(picture: Tensor, mask: Tensor, *, name: str = "the picture") -> Tensor:
    """The picture [3,H,W] with white where the mask [H,W] is 0. Raises UserError for an empty or unfitting mask."""
    if mask.shape != picture.shape[1:]:
        raise UserError(f"The mask of {name} has {tuple(mask.shape)} pixels, the picture {tuple(picture.shape[1:])}.")
    if not bool((mask > 0).any()):
        raise UserError(f"The mask of {name} is empty: leave that picture out, or give its mask.")
    return picture * mask + (1 - mask)


def _score(measure: Measure, averaging: Averaging, pictures: _Pictures, extractor: ImageFeatures) -> float:
    references, generated = pictures.features(extractor)
    if not measure.text:
        if averaging is Averaging.BY_PROMPT:
            return concept_fidelity(generated, references)
        return float(cosine_matrix(torch.cat(generated), references).mean())
    if not hasattr(extractor, "texts"):
        raise UserError(f"{measure.metric} compares with texts, which {extractor.name} does not read: give a CLIP.")
    texts = extractor.texts(pictures.subject.texts).double()
    if measure.weight is None and averaging is Averaging.BY_PROMPT:
        return prompt_following(generated, texts)
    cosines = [cosine_matrix(images, text[None])[:, 0] for images, text in zip(generated, texts, strict=True)]
    if measure.weight is not None:
        cosines = [measure.weight * each.clamp_min(0) for each in cosines]
    if averaging is Averaging.POOLED:
        return float(torch.cat(cosines).mean())
    return float(torch.stack([each.mean() for each in cosines]).mean())


def _measured(
    measure: Measure,
    values: Sequence[float],
    protocol: Protocol,
    extractors: Mapping[str, ImageFeatures],
    only_foreground: bool,
) -> Measured:
    if protocol.averaging is Averaging.BY_PROMPT:
        inside = PROMPT_AVERAGING if measure.text else FIDELITY_AVERAGING
    else:
        inside = "all images" if measure.text else "all pairs"
    metric = f"{measure.metric}-foreground" if only_foreground else measure.metric
    extractor = extractors[measure.extractor].name + (", foreground on white" if only_foreground else "")
    if measure.weight is not None:
        extractor += f", {measure.weight:g} max(cosine, 0)"
    score = Score(math.fsum(values) / len(values), metric, extractor, f"{inside} > subjects")
    return Measured(score, mean_interval(values) if len(values) > 1 else None, len(values))


def with_pictures(requests: Sequence[Request], generated: Path, *, partial: bool = False) -> list[Subject]:
    """The subjects with what was generated for them. partial: take those that were. UserError for what is missing."""
    wanted = present([request.name for request in requests], generated, partial=partial)
    return [
        Subject(r.name, r.references, r.texts, generated_pictures(generated, r.name, len(r.texts)))
        for r in requests
        if r.name in wanted
    ]


def generated_pictures(folder: Path, subject: str, prompts: int) -> tuple[tuple[Path, ...], ...]:
    """Files of `folder`/SUBJECT/PROMPT/*.png, the prompts numbered from 00 in the data set's order.

    Raises UserError naming the first prompt without pictures.
    """
    found = []
    for number in range(prompts):
        place = folder / subject / f"{number:02d}"
        if not place.is_dir():
            raise UserError(
                f"There are no pictures of {subject} for prompt {number:02d}: expected a folder {place}; there are"
                f" {prompts} prompts, numbered from 00 in the data set's order."
            )
        found.append(tuple(pictures_in(place)))
    return tuple(found)


def present(names: Sequence[str], folder: Path, *, partial: bool) -> list[str]:
    """The subjects that were generated; all of them must be, unless `partial`. Raises UserError naming one."""
    missing = [name for name in names if not (folder / name).is_dir()]
    if len(missing) == len(names) or (missing and not partial):
        raise UserError(
            f"{len(missing)} of {len(names)} subjects have no folder in {folder}, the first is {missing[0]}: generate"
            " them, or ask for a partial evaluation (which is comparable only with others of the same subjects)."
        )
    return [name for name in names if name not in missing]


def mask_reader(data: Path, data_masks: Path, generated: Path, generated_masks: Path) -> Callable[[Path], Tensor]:
    """Finds masks in two folders laid out as the pictures are, under the same names with the ending .png.

    data, generated: the folders of pictures; data_masks, generated_masks: of their masks, white is the subject.
    """

    def mask(path: Path) -> Tensor:
        for pictures, masks in ((generated, generated_masks), (data, data_masks)):
            if path.is_relative_to(pictures):
                place = (masks / path.relative_to(pictures)).with_suffix(".png")
                if not place.is_file():
                    raise UserError(f"{path} has no mask: expected {place}.")
                return (read_images(place)[0].mean(0) > 0.5).float()
        raise UserError(f"{path} lies neither in {data} nor in {generated}.")

    return mask
