"""A textual-inversion step, a LoRA step and an inversion, beside the same as in diffusers' example scripts.

`python tests/perf/diffusion.py`. Both have the weights of avatars/stable-diffusion (or of --model: a pipeline's
folder; sd15 for random weights of Stable Diffusion 1.5's sizes, which takes 14 GB; sd15-quarter for a quarter of its
channels), the same pictures and batch, and take turns in one run. Printed are medians, ratios, and the peak of memory
above what was in use before. Times are per step for the trainings, and of all steps for the inversion (ours then also
samples the picture back and measures how far it is: not counted, as the script does not).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil
import torch

import unified
from tests.perf import diffusion_scripts as scripts
from tests.perf.diffusion_models import SIZES, save_sd15
from unified.contract.backbone import Backbone
from unified.contract.reference import Reference
from unified.inversion import InvertSettings, invert, recipe_for
from unified.memory import PeakMemory
from unified.zoo.registry import folder_of

TASKS = ("textual inversion step", "LoRA step", "DDIM inversion")
RECIPES = {"textual inversion step": "textual-inversion", "LoRA step": "dreambooth-lora"}


def clock() -> float:
    """With one thread the processor's time, which other programs on the machine do not change."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass
class Laps:
    """A progress that notes the time of every step."""

    begin: float = 0.0
    times: list[float] = field(default_factory=list)

    def start(self, label: str, total: int) -> None:
        self.begin, self.times = clock(), []

    def advance(self, done: int, *, loss: float | None = None) -> None:
        self.times.append(clock())

    def finish(self) -> None:
        pass

    def steps(self) -> list[float]:
        """Seconds of each step but the first, which has the preparation in it."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def ours(backbone: Backbone, reference: Reference, task: str, steps: int) -> list[float]:
    laps = Laps()
    name = RECIPES.get(task, "ddim-inversion")
    # A reference of its own: nothing that an earlier turn has computed of the pictures is left in it.
    fresh = Reference(reference.images.clone(), category=reference.category, name=reference.name)
    recipe = recipe_for(backbone, recipe=name, steps=steps)
    invert(backbone, fresh, recipe, InvertSettings(progress=laps))
    return laps.steps() if task in RECIPES else [laps.times[-1] - laps.begin]


def theirs(pipelines: Mapping[str, Any], reference: Reference, task: str, steps: int) -> list[float]:
    if task not in RECIPES:
        begin = clock()
        scripts.ddim_inversion(pipelines[task], reference.images, "a portrait of a person", steps=steps)
        return [clock() - begin]
    found = []
    for number, step in zip(range(steps), pipelines[task], strict=False):
        begin = clock()
        step()
        if number:
            found.append(clock() - begin)
    return found


def with_peak(run: Callable[[], list[float]]) -> tuple[list[float], float]:
    """What `run` gives, and the peak of resident memory above what was there before, in MiB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # else what an earlier turn has freed hides the next one's peak
        ctypes.CDLL(None).malloc_trim(0)
    before = psutil.Process().memory_info().rss / 2**20
    with PeakMemory() as memory:
        found = run()
    return found, memory.peak_mebibytes - before


def measure(model: str, task: str, *, batch: int, steps: int, repeats: int, pictures: Path) -> None:
    """Print one row: both ways in turn, `repeats` times after a round to warm up. pictures: an empty folder."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    backbone = unified.load(model)
    folder = folder_of(model) if model.startswith("avatars/") else Path(model)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False)
    images = torch.rand(batch, 3, backbone.resolution, backbone.resolution, generator=torch.Generator().manual_seed(0))
    reference = Reference(images, category="person", name="<me>")
    made = {
        "textual inversion step": scripts.textual_inversion,
        "LoRA step": scripts.lora,
    }
    pipelines = {task: made[task](pipeline, scripts.PictureFiles(images, pictures)) if task in made else pipeline}
    ways: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: ours(backbone, reference, task, steps),
        "script": lambda: theirs(pipelines, reference, task, steps),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, run in ways.items():
            found, peak = with_peak(run)
            if repeat:
                times[name] += found
                peaks[name].append(peak)
    own, other = (statistics.median(times[name]) for name in ways)
    memory = [max(peaks[name]) for name in ways]
    print(
        f"{task:24} {batch:5} {own:10.4f} {other:10.4f} {other / own:10.2f} {memory[0]:10.0f} {memory[1]:10.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="avatars/stable-diffusion")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=8, help="Steps of each turn.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = "processor" if arguments.threads == 1 else "wall"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = (
            str(save_sd15(folder / "sd15", *SIZES[arguments.model])) if arguments.model in SIZES else arguments.model
        )
        print(
            f"{arguments.model}, {arguments.threads} threads, {kind} time in seconds, memory in MiB above the weights"
        )
        print(f"{'':24} {'batch':>5} {'ours':>10} {'script':>10} {'ratio':>10} {'ours MiB':>10} {'script MiB':>10}")
        for task in arguments.tasks:
            for batch in arguments.batches:
                with tempfile.TemporaryDirectory() as pictures:
                    measure(
                        model,
                        task,
                        batch=batch,
                        steps=arguments.steps,
                        repeats=arguments.repeats,
                        pictures=Path(pictures),
                    )


if __name__ == "__main__":
    main()
