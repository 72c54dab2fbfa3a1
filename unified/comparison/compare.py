"""`unified.compare`: every run x prompt x seed on the same pictures, one after the other.

Runs are not spread over processes: one inversion already keeps every core (or the GPU) busy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unified.avatars.benchmark import Prompt
from unified.comparison.ask import default_prompts, read_asks
from unified.comparison.references import named_pictures, square_pictures
from unified.comparison.report import Report
from unified.comparison.result import RunResult
from unified.comparison.run import Run, parse_runs, with_steps
from unified.comparison.scorers import Judge, Scorers, embedded_scorers
from unified.comparison.store import Store
from unified.comparison.work import Work, guarded, perform
from unified.contract.backbone import Backbone, backbones
from unified.contract.progress import Progress
from unified.errors import UserError
from unified.images import ImageInput
from unified.loading import load
from unified.zoo.registry import zoo


def compare(
    images: ImageInput,
    prompts: Sequence[str | Prompt] | None = None,
    *,
    runs: Sequence[str | Run] | None = None,
    seeds: Sequence[int] = (0,),
    category: str = "",
    name: str = "<me>",
    captions: Sequence[str] | None = None,
    masks: Tensor | None = None,
    steps: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = True,
    scorers: Scorers | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Invert the pictures by every run, ask each for every prompt with every seed, and score what comes.

    images: paths, a folder, PIL, numpy or tensors, or a person of the benchmark ("avatarbench/person-03").
    prompts: with the concept's name or `{}` in them; default: six, one of each kind.
    runs: "model:recipe", or :class:`Run` for settings of their own; "model:category" is the baseline that has
        the category in place of the concept. Default: the default recipe of one present model per family.
    seeds: of the pictures, one picture for each. seed: of the inversions.
    category: class word ("person"); default: that of the models, if they draw one thing only.
    steps: overrides the steps of every recipe that has some. captions, masks: as in `Backbone.invert`.
    folder: where finished work is kept; with `resume` it is taken up again, and nothing in it is computed
        twice. None: nothing is kept.
    scorers: feature extractors; default: the embedded ones that are present.
    say: told what is being done, a line at a time.

    A run that fails is in the report with the reason, and the others are done. Raises UserError before any
    work for what cannot be run as written, and at the end if no run made anything.
    """
    pictures = named_pictures(images)
    chosen = parse_runs(default_runs() if runs is None else runs)
    if steps is not None:
        if steps < 1:
            raise UserError(f"steps={steps} was given; give at least 1.")
        chosen = [with_steps(run, steps) for run in chosen]
    category = category or pictures.category or _category_of(chosen)
    if not category and any(run.is_baseline for run in chosen):
        raise UserError("A run with the category alone needs to know it: give category=..., such as 'person'.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds={list(seeds)} was given; give at least one seed, and each once.")
    if not name.strip():
        raise UserError("name is empty: give the placeholder that prompts use, such as '<me>'.")
    asks = read_asks(default_prompts(pictures.person) if prompts is None else prompts, name=name, category=category)
    references = square_pictures(pictures.images)
    scorers = embedded_scorers() if scorers is None else scorers
    store = Store(None if folder is None else Path(folder), resume=resume)
    store.describe(
        {
            "runs": [run.title for run in chosen],
            "prompts": [ask.text for ask in asks],
            "seeds": list(seeds),
            "category": category,
            "name": name,
        }
    )
    judge = Judge(scorers, references, asks)
    work = Work(
        images=pictures.images,
        references=references,
        asks=tuple(asks),
        seeds=tuple(seeds),
        category=category,
        name=name,
        captions=None if captions is None else tuple(captions),
        masks=pictures.masks if masks is None else masks,
        seed=seed,
        store=store,
        judge=judge,
        progress=progress,
        say=say or (lambda text: None),
    )
    results = _perform_all(chosen, work)
    failed = [result for result in results if result.error]
    if len(failed) == len(results) and not any(result.concept for result in results):
        reasons = " ".join(f"{result.title}: {result.error}" for result in failed)
        raise UserError(f"No run made anything. {reasons}")
    return Report(
        runs=tuple(results),
        asks=tuple(asks),
        seeds=tuple(seeds),
        references=references,
        name=name,
        category=category,
        scorers=scorers,
        concept_title=images if isinstance(images, str) and pictures.person is not None else "",
        among_references=judge.among_references(),
        notes=scorers.notes,
    )


def default_runs() -> list[str]:
    """The default recipe of one embedded model per family, of those whose weights are here."""
    chosen: dict[str, str] = {}
    for name, model in zoo:
        if model.load and model.backbone and model.present:
            chosen.setdefault(backbones.get(model.backbone).label, name)
    if not chosen:
        able = ", ".join(name for name, model in zoo if model.load)
        raise UserError(f"No embedded model has its weights in this installation: build one ({able}) or give runs.")
    return [f"{name}:{backbones.get(zoo.get(name).backbone).default_recipe}" for name in chosen.values()]


def _category_of(runs: Sequence[Run]) -> str:
    """The class word of the models that draw one thing only."""
    for run in runs:
        if isinstance(run.model, Backbone):
            word = run.model.category
        else:
            word = zoo.get(str(run.model)).category if str(run.model) in zoo else ""
        if word:
            return word
    return ""


@dataclass
class _Shelf:
    """The model in use, kept while the next run uses it too: one at a time, as they may be large."""

    name: str = ""
    backbone: Backbone | None = None

    def get(self, run: Run) -> Backbone:
        if isinstance(run.model, Backbone):
            return run.model
        if self.name != str(run.model) or self.backbone is None:
            self.backbone = None  # given up before the next one is read
            self.backbone = load(run.model)
            self.name = str(run.model)
        return self.backbone


def _perform_all(runs: Sequence[Run], work: Work) -> list[RunResult]:
    shelf = _Shelf()
    results = []
    for number, run in enumerate(runs, 1):
        work.say(f"[{number}/{len(runs)}] {run.title}")
        backbone, error = guarded(functools.partial(shelf.get, run))
        if backbone is None:
            work.say(f"  failed: {error}")
            results.append(RunResult(title=run.title, slug=run.slug, model=run.model_id, error=error))
            continue
        results.append(perform(run, backbone, work))
    return results
