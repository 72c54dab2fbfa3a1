"""How long an encoder takes for one picture, and what a batch saves: `python -m tests.perf.gan_inversion --help`.

Encoders: one picture in, its codes out. Batch: 30 pictures by image2stylegan (W+) in one batch against the same one
by one, in turn in one run.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import unified
from unified.avatars import benchmark
from unified.contract.backbone import Backbone
from unified.contract.recipe import recipes
from unified.inversion import InvertSettings, invert, invert_many
from unified.zoo.registry import zoo


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """(wall, processor) seconds; the second is what a busy machine lengthens less."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def encoders(backbone: Backbone, repeats: int) -> None:
    """Every encoder that has been trained, on one picture, after one call to read it."""
    reference = backbone.reference(benchmark.load()[0].images[:1])
    prefix = f"{backbone.id.rpartition('/')[0]}/encoder-"
    for name, model in zoo:
        if not name.startswith(prefix) or not model.present:
            continue
        recipe = recipes.get(name.removeprefix(prefix))
        once = functools.partial(invert, backbone, reference, recipe, InvertSettings())
        once()
        taken = [seconds(once) for _ in range(repeats)]
        wall, processor = (1000 * statistics.median(each) for each in zip(*taken, strict=True))
        print(f"{recipe.name:18} {wall:6.0f} ms for one picture ({processor:.0f} ms of processor time)", flush=True)


def batch(backbone: Backbone, *, people: int, steps: int) -> None:
    """The same pictures in one batch and one by one."""
    references = [backbone.reference(p.images[:1], name=f"<{p.name}>") for p in benchmark.load()[:people]]
    recipe = recipes.get("image2stylegan").with_overrides(steps=steps)
    settings = InvertSettings()
    invert(backbone, references[0], recipe.with_overrides(steps=2), settings)
    one_by_one = seconds(lambda: [invert(backbone, each, recipe, settings) for each in references])
    together = seconds(lambda: invert_many(backbone, references, recipe, settings))
    for label, found in (("one by one", one_by_one), ("in one batch", together)):
        print(f"{people} pictures, {steps} steps, {label:12} {found[0]:7.1f} s ({found[1]:.1f} s of processor time)")
    ratios = [a / b for a, b in zip(one_by_one, together, strict=True)]
    print(f"one batch is {ratios[0]:.1f} times as fast ({ratios[1]:.1f} by processor time)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20, help="of the search in W+")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = unified.load("avatars/stylegan2")
    encoders(backbone, arguments.repeats)
    batch(backbone, people=arguments.people, steps=arguments.steps)


if __name__ == "__main__":
    main()
