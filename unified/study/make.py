"""Write a study: study.html to send out (it knows no names of runs), key.json to keep."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from torch import Tensor

from unified.comparison.store import png
from unified.contract.keys import digest
from unified.files import write_files
from unified.study.material import Material
from unified.study.trials import Question, Trial, draw_trials

PAGE, KEY = "study.html", "key.json"
FORMAT = 1
_CRISP = 128  # pixels: up to this side, pixels are shown as squares

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def make_study(material: Material, folder: Path, *, seed: int = 0, limit: int | None = None) -> list[Trial]:
    """Write the page and the key into `folder`; returns the trials.

    seed: of sides and order: the same seed, the same study. limit: of trials, shared evenly by pairs of runs.
    """
    trials = draw_trials(material, seed=seed, limit=limit)
    key = _key(material, trials, seed)
    write_files(
        {
            folder / PAGE: page(material, trials, study=str(key["study"])).encode(),
            folder / KEY: (json.dumps(key, indent=1, ensure_ascii=False) + "\n").encode(),
        }
    )
    return trials


def page(material: Material, trials: Sequence[Trial], *, study: str) -> str:
    """The whole page: one file without anything from outside."""
    sides = [picture.shape[-1] for picture in material.pictures.values()]
    data = {
        "study": study,
        "format": FORMAT,
        "references": [] if material.references is None else [_address(image) for image in material.references],
        "trials": [_shown(trial, material) for trial in trials],
    }
    return _environment.get_template("study.html").render(
        data=data,
        crisp=max(sides) <= _CRISP,
        what=material.category or "subject",
        questions=sorted({str(trial.question) for trial in trials}),
    )


def _shown(trial: Trial, material: Material) -> Mapping[str, Any]:
    """What the page knows of a trial: nothing that tells which run made which picture."""
    return {
        "id": trial.id,
        "question": trial.question,
        "text": material.texts[trial.text] if trial.question is Question.PROMPT else "",
        "left": _address(material.pictures[trial.left, trial.text, trial.seed]),
        "right": _address(material.pictures[trial.right, trial.text, trial.seed]),
    }


def _address(image: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image[None])).decode()


def _key(material: Material, trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    rows = [
        {
            "id": trial.id,
            "question": str(trial.question),
            "prompt": material.texts[trial.text],
            "seed": trial.seed,
            "left": trial.left,
            "right": trial.right,
        }
        for trial in trials
    ]
    pixels = [png(material.pictures[t.left, t.text, t.seed][None]) for t in trials]
    return {
        "format": FORMAT,
        "study": digest(rows, *pixels)[:16],
        "seed": seed,
        "runs": list(material.runs),
        "trials": rows,
    }
