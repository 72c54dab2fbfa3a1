"""One run of a comparison: its concept, what the concept reproduces, and its cells."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from unified.comparison.ask import Ask
from unified.comparison.result import Cell, RunResult
from unified.comparison.run import Run
from unified.comparison.scorers import Judge
from unified.comparison.store import Store, shown
from unified.contract.abilities import Reads, can
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.keys import digest, recipe_settings
from unified.contract.progress import Progress
from unified.contract.recipe import Recipe
from unified.errors import UserError
from unified.images import ImageInput
from unified.inversion import recipe_for
from unified.memory import PeakMemory

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What all runs of a comparison share. references: [N,3,S,S] in 0..1, the pictures as they are scored."""

    images: ImageInput
    references: Tensor
    asks: tuple[Ask, ...]
    seeds: tuple[int, ...]
    category: str
    name: str
    captions: tuple[str, ...] | None
    masks: Tensor | None
    seed: int
    store: Store
    judge: Judge
    progress: Progress | None
    say: Callable[[str], None]


def guarded(compute: Callable[[], T]) -> tuple[T | None, str]:
    """(what it returns, "") or (None, why it failed, in a sentence). An interruption goes through."""
    try:
        return compute(), ""
    except UserError as error:
        return None, str(error)
    except Exception as error:  # one run's failure, whatever it is, must not lose the others
        text = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {text[0] if text else 'no reason given'}"


def perform(run: Run, backbone: Backbone, work: Work) -> RunResult:
    """Do what is not done yet of one run. Failures are in the result; only writing and interruption raise."""
    known: dict[str, Any] = {
        "title": run.title,
        "slug": run.slug,
        "model": backbone.id,
        "family": backbone.label,
        "is_baseline": run.is_baseline,
    }
    if run.is_baseline:
        key = digest("category", backbone.fingerprint, work.category)
        cells = [_cell(run, backbone, None, key, number, seed, work) for number, seed in _grid(work)]
        known["recipe"] = "category alone"
        return RunResult(**known, cells=cells, error=_common_error(cells))

    recipe, error = guarded(functools.partial(recipe_for, backbone, recipe=run.recipe or None, steps=run.steps))
    if recipe is None:
        return RunResult(**known, error=error)
    known |= {"recipe": recipe.name, "cite": recipe.cite}
    inputs, error = guarded(functools.partial(_concept_key, backbone, recipe, work))
    if inputs is None:
        return RunResult(**known, error=error)
    key = inputs
    concept = work.store.concept(run.slug, key)
    if concept is None:
        work.say(f"  inverting {len(work.references)} pictures: {recipe.describe()}")
        concept, error = guarded(functools.partial(_invert, run, backbone, recipe, key, work))
        if concept is None:
            work.say(f"  failed: {error}")
            return RunResult(**known, error=error)
        work.store.save_concept(run.slug, key, concept)
    known |= {"concept": concept, "stages": tuple(concept.meta["stages"])}
    known["reproduced"], known["reproduced_scores"] = _reproduce(run, backbone, concept, key, work)
    cells = [_cell(run, backbone, concept, key, number, seed, work) for number, seed in _grid(work)]
    return RunResult(**known, cells=cells, error=_common_error(cells))


def _grid(work: Work) -> list[tuple[int, int]]:
    return [(number, seed) for number in range(len(work.asks)) for seed in work.seeds]


def _common_error(cells: Sequence[Cell]) -> str:
    """The reason if not one cell has a picture."""
    return cells[0].error if cells and all(cell.picture is None for cell in cells) else ""


def _concept_key(backbone: Backbone, recipe: Recipe, work: Work) -> str:
    reference = backbone.reference(
        work.images, name=work.name, category=work.category, captions=work.captions, masks=work.masks
    )
    masks = b"" if reference.masks is None else _bytes(reference.masks)
    return digest(
        _bytes(reference.images),
        masks,
        {
            "captions": reference.captions,
            "category": reference.category,
            "name": reference.name,
            "recipe": recipe_settings(recipe, type(backbone)),
            "backbone": backbone.fingerprint,
            "seed": work.seed,
        },
    )


def _bytes(tensor: Tensor) -> bytes:
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.detach().cpu().double().numpy().tobytes()


def _invert(run: Run, backbone: Backbone, recipe: Recipe, key: str, work: Work) -> Concept:
    concept = backbone.invert(
        work.images,
        recipe=recipe,
        name=work.name,
        category=work.category,
        captions=work.captions,
        masks=work.masks,
        seed=work.seed,
        checkpoints=work.store.checkpoints(run.slug, key),
        progress=work.progress,
    )
    if any(stage.get("interrupted") for stage in concept.meta["stages"]):
        raise KeyboardInterrupt  # what was reached is in the checkpoints
    return concept


def _reproduce(
    run: Run, backbone: Backbone, concept: Concept, key: str, work: Work
) -> tuple[Tensor | None, dict[str, float]]:
    """The pictures as the concept alone gives them, if it has a code for each, and how close they are."""
    if not concept.gives_back:
        return None, {}
    key = digest(key, "reproduce", dict(run.sampling))
    name = "reproduced"
    found = work.store.pictures(run.slug, name, key)
    marker = work.judge.marker()
    if found is not None and found[1].get("scorers") == marker:
        return found[0], found[1]["scores"]
    pictures = None if found is None else found[0]
    if pictures is None:
        pictures, _ = guarded(
            lambda: shown(
                backbone.generate(
                    concept, n=concept.pictures, sampling=run.sampling, output="pt", progress=work.progress
                )
            )
        )
    if pictures is None:
        return None, {}
    references = backbone.reference(work.images).images.float()
    scores = work.judge.reconstruction(pictures, references)
    about = {"scores": scores, "scorers": marker, "pictures": len(pictures)}
    work.store.save_pictures(run.slug, name, key, pictures if found is None else None, about)
    return pictures, scores


def _cell(run: Run, backbone: Backbone, concept: Concept | None, key: str, number: int, seed: int, work: Work) -> Cell:
    ask = work.asks[number]
    prompt = ask.text if concept is not None else ask.neutral
    name = f"{digest(ask.text)[:10]}-{seed}"
    scheme = [run.scheme, dict(run.scheme_settings)] if run.scheme or run.scheme_settings else []
    key = digest(key, prompt, seed, dict(run.sampling), *scheme)
    found = work.store.pictures(run.slug, name, key)
    marker = work.judge.marker(ask)
    about: dict[str, Any]
    if found is not None:
        picture, about = found[0][0], found[1]
    else:
        work.say(f"  {prompt}" + (f" (seed {seed})" if len(work.seeds) > 1 else ""))
        begin = time.monotonic()
        with PeakMemory() as memory:
            made, error = guarded(functools.partial(_generate, run, backbone, concept, prompt, seed, work))
        if made is None:
            work.say(f"  failed: {error}")
            return Cell(ask=number, seed=seed, error=error)
        picture = made
        about = {
            "prompt": prompt,
            "seed": seed,
            "pictures": 1,
            "seconds": round(time.monotonic() - begin, 3),
            "peak_mebibytes": round(memory.peak_mebibytes),
        }
    if about.get("scorers") != marker:
        scores, seen = work.judge.cell(picture, ask)
        about |= {"scores": scores, "seen": seen, "scorers": marker}
        work.store.save_pictures(run.slug, name, key, picture[None] if found is None else None, about)
    return Cell(
        ask=number,
        seed=seed,
        picture=picture,
        scores=about["scores"],
        seen=about["seen"],
        seconds=about["seconds"],
        peak_mebibytes=about["peak_mebibytes"],
    )


def _generate(run: Run, backbone: Backbone, concept: Concept | None, prompt: str, seed: int, work: Work) -> Tensor:
    """One picture [3,H,W]. A baseline on a backbone that reads no prompts is a random sample of it."""
    silent = concept is None and not can(backbone, Reads)
    images: Tensor = backbone.generate(
        concept,
        prompt="" if silent else prompt,
        n=1,
        seed=seed,
        sampling=run.sampling,
        scheme=None if concept is None else run.scheme,
        scheme_settings=None if concept is None else run.scheme_settings,
        output="pt",
        progress=work.progress,
    )
    return shown(images)[0]
