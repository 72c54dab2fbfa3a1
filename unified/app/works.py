"""What jobs do: compare, invert, edit by text, find directions, explore."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.app.jobs import Interrupted, Task, Work
from unified.app.models import Models
from unified.app.store import JobStore
from unified.app.tools import Picture, attention_maps, between_concepts
from unified.comparison.compare import compare
from unified.comparison.references import named_pictures
from unified.comparison.run import Run
from unified.comparison.scorers import Scorers, embedded_scorers
from unified.comparison.store import png
from unified.contract.abilities import Reads, can
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.target import Drag
from unified.directions_hook import find_directions
from unified.files import write_file, write_files
from unified.images import ImageInput, read_images

CONCEPT = "concept.safetensors"
INPUTS = "inputs"
REPORT = "report"


@dataclass(frozen=True)
class Workshop:
    """What the works share: models, scorers (loaded once), and where the jobs lie."""

    models: Models
    store: JobStore
    make_scorers: Callable[[], Scorers] = embedded_scorers

    @functools.cached_property
    def scorers(self) -> Scorers:
        return self.make_scorers()

    def works(self) -> dict[str, Work]:
        """Kind of job -> what does it."""
        return {
            "compare": self.compare,
            "invert": self.invert,
            "text-edit": self.text_edit,
            "drag": self.drag,
            "directions": self.directions,
            "attention": self.attention,
            "between": self.between,
        }

    def concept(self, id: str) -> Concept:
        """What the inversion with this job id found."""
        return Concept.load(self.store.path(id) / CONCEPT)

    # --- Compare --------------------------------------------------------------------------------------------

    def compare(self, task: Task) -> Mapping[str, Any]:
        """settings: person or "", runs, prompts, seeds, name, category, steps or None."""
        asked = task.settings
        task.say("Getting the models ready")
        runs = []
        for title in asked["runs"]:
            model, _, recipe = title.rpartition(":")
            runs.append(Run(self.models.get(model), recipe, label=title))
            task.check()
        report = compare(
            self._pictures(task),
            asked["prompts"],
            runs=runs,
            seeds=asked["seeds"],
            name=asked["name"],
            category=asked["category"],
            steps=asked["steps"],
            folder=task.folder / "work",
            scorers=self.scorers,
            progress=task,
            say=task.say,
        )
        task.say("Writing the report")
        report.save(task.folder / REPORT)
        write_file(task.folder / "report.zip", zipped(task.folder / REPORT))
        failed = {run.title: run.error for run in report.runs if run.error}
        partly = {run.title: c.error for run in report.runs for c in run.cells if c.error and not run.error}
        return {"failed": {**failed, **partly}, "notes": list(report.notes)}

    # --- Edit -----------------------------------------------------------------------------------------------

    def invert(self, task: Task) -> Mapping[str, Any]:
        """settings: person or "", model, recipe, name, category, steps or None."""
        asked = task.settings
        task.say(f"Getting {asked['model']} ready")
        backbone = self.models.get(asked["model"])
        pictures = named_pictures(self._pictures(task))
        images = read_images(pictures.images, size=backbone.resolution)[:1]
        write_file(task.folder / "before.png", png(images))
        task.say(f"Inverting the picture by {asked['recipe']}")
        concept = backbone.invert(
            images,
            recipe=asked["recipe"],
            steps=asked["steps"],
            name=asked["name"],
            category=asked["category"],
            checkpoints=task.folder / "checkpoints",
            progress=task,
        )
        if any(stage.get("interrupted") for stage in concept.meta["stages"]):
            raise Interrupted  # what was reached is in the checkpoints
        concept.save(task.folder / CONCEPT)
        task.say("Showing what was found")
        write_file(task.folder / "after.png", png(reproduced(backbone, concept, task)))
        return {"seconds": round(sum(float(stage["seconds"]) for stage in concept.meta["stages"]), 1)}

    def text_edit(self, task: Task) -> Mapping[str, Any]:
        """settings: concept (the inversion's id), model, prompt, seed."""
        asked = task.settings
        task.say(f"Getting {asked['model']} ready")
        backbone, concept = self.models.get(asked["model"]), self.concept(asked["concept"])
        task.say(asked["prompt"])
        image = backbone.generate(concept, prompt=asked["prompt"], n=1, seed=asked["seed"], output="pt", progress=task)
        return keep(task, [Picture(asked["prompt"], image[0].float())])

    def drag(self, task: Task) -> Mapping[str, Any]:
        """settings: concept (the inversion's id), model, drags: [[[x, y] from, [x, y] to], ...] in pixels."""
        asked = task.settings
        task.say(f"Getting {asked['model']} ready")
        backbone, concept = self.models.get(asked["model"]), self.concept(asked["concept"])
        drags = [Drag((a[0], a[1]), (b[0], b[1])) for a, b in asked["drags"]]
        task.say("Moving the points")
        image = backbone.generate(concept, drags=drags, n=1, output="pt", progress=task)
        return keep(task, [Picture("dragged", image[0].float())])

    def directions(self, task: Task) -> Mapping[str, Any]:
        """settings: model, method."""
        asked = task.settings
        task.say(f"Looking for directions of {asked['model']} by {asked['method']}")
        backbone = self.models.get(asked["model"])
        return {"found": find_directions(backbone, asked["method"], progress=task)}

    # --- Explore --------------------------------------------------------------------------------------------

    def attention(self, task: Task) -> Mapping[str, Any]:
        """settings: model, prompt, seed, concept (an inversion's id, or "")."""
        asked = task.settings
        task.say(f"Getting {asked['model']} ready")
        backbone = self.models.get(asked["model"])
        concept = self.concept(asked["concept"]) if asked["concept"] else None
        task.say("Making the picture")
        return keep(
            task, attention_maps(backbone, prompt=asked["prompt"], seed=asked["seed"], concept=concept, progress=task)
        )

    def between(self, task: Task) -> Mapping[str, Any]:
        """settings: model, first, second (inversions' ids), steps, seed."""
        asked = task.settings
        task.say(f"Getting {asked['model']} ready")
        backbone = self.models.get(asked["model"])
        first, second = self.concept(asked["first"]), self.concept(asked["second"])
        prompt = "a portrait of {}" if can(backbone, Reads) else ""
        pictures = between_concepts(
            backbone, first, second, steps=asked["steps"], seed=asked["seed"], prompt=prompt, progress=task
        )
        return keep(task, pictures)

    def _pictures(self, task: Task) -> ImageInput:
        person = str(task.settings["person"])
        return person or [str(path) for path in sorted((task.folder / INPUTS).iterdir())]


def reproduced(backbone: Backbone, concept: Concept, task: Task) -> Any:
    """[1,3,H,W]: the picture as the concept gives it; by a prompt where it has no code for a picture."""
    prompt = "" if concept.gives_back else f"a portrait of {concept.name}"
    return backbone.generate(concept, prompt=prompt, n=1, output="pt", progress=task).float()


def keep(task: Task, pictures: list[Picture]) -> Mapping[str, Any]:
    """Write the pictures into the job's folder; the result says which and what they show."""
    names = [f"{number:02d}.png" for number in range(len(pictures))]
    write_files({task.folder / "pictures" / n: png(p.image[None]) for n, p in zip(names, pictures, strict=True)})
    return {"pictures": [{"file": n, "label": p.label} for n, p in zip(names, pictures, strict=True)]}


def zipped(folder: Path) -> bytes:
    """Everything below the folder as one archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    return buffer.getvalue()
