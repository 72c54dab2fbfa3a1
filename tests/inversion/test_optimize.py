"""The generic optimiser, on the tiny GAN and the tiny diffusion model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from inversion.methods.optimize import Optimize, Stop
from inversion.methods.schedules import constant, cosine, projector
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.parameter import LoRA, Weights
from inversion.spaces.style import NoiseMaps, W, WPlus, noise_regularity
from inversion.spaces.textual import Word
from tests.tiny.families import pictures, tiny
from unified.contract.objective import Objective
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert, invert_many


def recipe(*parts: tuple[tuple, Optimize]) -> Recipe:
    return Recipe("test", tuple(Stage(*part) for part in parts), scheme="", cite="")


def test_finds_the_w_that_made_the_picture() -> None:
    """Pictures of the generator itself: the error falls by more than ten times."""
    gan = tiny("stylegan")
    truth = gan.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
    images = gan.synthesis(truth) / 2 + 0.5
    concept = invert(
        gan, Reference(images), recipe(((WPlus(),), Optimize(steps=150, lr=0.2, schedule="cosine"))), InvertSettings()
    )
    losses = concept.meta["stages"][0]["losses"]
    assert losses[-1] < 0.1 * losses[0]


def test_best_is_kept_for_each_picture_and_last_if_asked() -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 3)
    wild = Optimize(steps=12, lr=0.8)  # so large that the last codes are not the best ones
    best = invert(gan, reference, recipe(((WPlus(),), wild)), InvertSettings())
    last = invert(gan, reference, recipe(((WPlus(),), replace(wild, keep="last"))), InvertSettings())

    def errors(concept) -> torch.Tensor:
        with gan.bound(concept) as view:
            return view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)

    assert bool((errors(best) <= errors(last) + 1e-6).all())
    assert not torch.equal(best.codes[0].tensors["w"], last.codes[0].tensors["w"])


def test_stops_early_at_the_objective_asked_for() -> None:
    gan = tiny("stylegan")
    method = Optimize(steps=50, lr=0.05, objectives=(Error(), Perceptual()), stop=Stop("perceptual", 10.0))
    concept = invert(gan, pictures(gan), recipe(((W(),), method)), InvertSettings())
    assert concept.meta["stages"][0]["stopped"] == "perceptual reached 10.0 at step 1 of 50"


@dataclass(frozen=True)
class Poisoned(Objective):
    """Becomes NaN at a given step."""

    name: ClassVar[str] = "poisoned"
    weight: float = 1.0
    at: int = 3

    def __call__(self, view, attempt, codes, step) -> torch.Tensor:
        rows = attempt.error.flatten(1).mean(1)
        return rows * float("nan") if step.number >= self.at else rows


def test_nan_keeps_the_last_good_code() -> None:
    gan = tiny("stylegan")
    method = Optimize(steps=10, lr=0.05, objectives=(Poisoned(),), keep="last")
    poisoned = invert(gan, pictures(gan), recipe(((WPlus(),), method)), InvertSettings())
    assert "NaN" in poisoned.meta["stages"][0]["stopped"]
    clean = invert(gan, pictures(gan), recipe(((WPlus(),), Optimize(steps=2, lr=0.05, keep="last"))), InvertSettings())
    assert torch.equal(poisoned.codes[0].tensors["w"], clean.codes[0].tensors["w"])


def test_nan_at_the_first_step_is_an_error() -> None:
    gan = tiny("stylegan")
    method = Optimize(steps=10, objectives=(Poisoned(at=0),))
    with pytest.raises(UserError, match="not a number at its first step"):
        invert(gan, pictures(gan), recipe(((WPlus(),), method)), InvertSettings())


def test_each_space_has_its_own_rate() -> None:
    gan = tiny("stylegan")
    method = Optimize(steps=3, lr=0.1, lrs={"noise": 0.0}, keep="last")
    spaces = (W(), NoiseMaps(regularity=0.0))
    concept = invert(gan, pictures(gan), recipe((spaces, method)), InvertSettings())
    still = invert(gan, pictures(gan), recipe((spaces, replace(method, steps=0))), InvertSettings())
    w, noise = concept.codes
    assert not torch.equal(w.tensors["w"], still.codes[0].tensors["w"])
    for name, value in noise.tensors.items():
        # The projection onto zero mean and unit variance is all that moved them.
        start = still.codes[1].tensors[name]
        start = start - start.mean((1, 2), keepdim=True)
        start = start / start.square().mean((1, 2), keepdim=True).sqrt()
        assert torch.allclose(value, start, atol=1e-5)


def _people(family: str) -> list[Reference]:
    backbone = tiny(family)
    return [Reference(pictures(backbone, 2, seed=seed).images, category="a", name=f"<{seed}>") for seed in range(3)]


@pytest.mark.parametrize(
    ("family", "stages", "batched"),
    [
        ("stylegan", [((W(exploration=0.05), NoiseMaps()), Optimize(steps=4, lr=0.05, keep="last"))], [3]),
        ("stylegan", [((W(),), Optimize(steps=3, lr=0.05)), ((Weights(),), Optimize(steps=3, lr=1e-3))], [3, 1]),
        ("stable-diffusion", [((Word(),), Optimize(steps=4, lr=1e-2, templates=("a {}", "one {}")))], [3]),
        ("emu3", [((Word(vectors=2),), Optimize(steps=4, lr=1e-2)), ((LoRA(rank=2),), Optimize(steps=2))], [3, 1]),
    ],
)
def test_several_concepts_in_one_batch_come_out_as_alone(family: str, stages, batched: list[int]) -> None:
    backbone = tiny(family)
    people = _people(family)
    plan = recipe(*stages)
    together = invert_many(backbone, people, plan, InvertSettings())
    assert [s["concepts_in_batch"] for s in together[0].meta["stages"]] == batched
    for person, one in zip(people, together, strict=True):
        alone = invert(backbone, person, plan, InvertSettings())
        assert one.name == person.name
        for code, expected in zip(one.codes, alone.codes, strict=True):
            assert code.per_picture == expected.per_picture
            for name, value in expected.tensors.items():
                assert torch.allclose(code.tensors[name], value, atol=2e-3), (
                    name,
                    (code.tensors[name] - value).abs().max(),
                )


def test_mini_batches_take_pictures_of_every_concept() -> None:
    gan = tiny("stable-diffusion")
    concept = invert(gan, pictures(gan, 4), recipe(((Word(),), Optimize(steps=3, batch=2))), InvertSettings())
    assert len(concept.meta["stages"][0]["losses"]) == 3


def test_projector_schedule_at_its_corners() -> None:
    """Karras et al. 2020, appendix D: up over 5 %, flat, down over the last 25 %."""
    assert projector(0.0) == 0.0
    assert projector(0.025) == pytest.approx(0.5)
    assert projector(0.5) == 1.0
    assert projector(0.875) == pytest.approx(0.5)
    assert projector(1.0) == pytest.approx(0.0)
    assert (constant(0.3), cosine(0.0), cosine(1.0)) == (1.0, 1.0, pytest.approx(0.0))


def test_noise_regularity_is_zero_for_uncorrelated_maps_and_counts_every_level() -> None:
    """A map that is constant along x: mean(n roll n)^2 = (mean n^2)^2 at each level, in closed form."""
    rows = torch.tensor([1.0, -1.0]).repeat(8)
    stripes = rows[:, None].expand(16, 16)  # alternates along y: averaging 2 x 2 leaves nothing
    value = noise_regularity(stripes[None])
    assert value.item() == pytest.approx(1.0 + 1.0)  # y: (-1)^2, x: 1^2 at 16 px; zero at 8 px
    white = torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(0))
    assert noise_regularity(white).item() < 0.05


def test_overrides_one_for_all_or_one_per_stage() -> None:
    two = recipe(((W(),), Optimize(steps=9)), ((Weights(),), Optimize(steps=9)))
    assert [s.method.steps for s in two.with_overrides(steps=3).stages] == [3, 3]
    assert [s.method.steps for s in two.with_overrides(steps=(3, 4)).stages] == [3, 4]
    assert [s.method.lr for s in two.with_overrides(lr=0.5).stages] == [0.5, 0.5]
    with pytest.raises(UserError, match="2 stages"):
        two.with_overrides(steps=(1, 2, 3))


def test_what_makes_no_sense_is_refused_with_what_would() -> None:
    gan, diffusion = tiny("stylegan"), tiny("stable-diffusion")
    image = pictures(gan, 1).images
    with pytest.raises(UserError, match=r"textual-inversion.*reads prompts.*image2stylegan"):
        gan.invert(image, recipe="textual-inversion")
    with pytest.raises(UserError, match="w > weights"):
        gan.invert(image, space="weights")
    with pytest.raises(UserError, match="no gradient"):
        diffusion.invert(image, space="start-noise")
    with pytest.raises(UserError, match="nearest: textual-inversion"):
        diffusion.invert(image, recipe="textual-inversoin")
    with pytest.raises(UserError, match="nearest: lora"):
        diffusion.invert(image, space="lorra")
    with pytest.raises(UserError, match="category"):
        diffusion.invert(image, recipe="textual-inversion")
    with pytest.raises(UserError, match="one or the other"):
        diffusion.invert(image, recipe="textual-inversion", space="word")


def test_one_optimiser_object_serves_every_family() -> None:
    """The same object: W+, generator tuning, textual inversion, LoRA on a flow, autoregressive soft prompts."""
    one = Optimize(steps=2, lr=1e-3)
    for family, stages in (
        ("stylegan", (Stage((WPlus(),), one),)),
        ("stylegan", (Stage((W(),), one), Stage((Weights(),), one))),
        ("stable-diffusion", (Stage((Word(),), one),)),
        ("flux", (Stage((LoRA(rank=2),), one),)),
        ("emu3", (Stage((Word(vectors=3),), one),)),
    ):
        backbone = tiny(family)
        concept = invert(backbone, pictures(backbone, 2), Recipe("one", stages, "", ""), InvertSettings())
        assert [s["steps"] for s in concept.meta["stages"]] == [2] * len(stages)


def test_no_family_is_named_outside_of_the_packages_that_bring_them() -> None:
    """No branch on a family anywhere in the contract, the methods or the schemes."""
    import re
    from pathlib import Path

    root = Path(__file__).parents[2]
    pattern = re.compile(r"""[=!]=\s*["'](gan|diffusion|autoregressive|stylegan\d?|stable-diffusion|flux|emu3)["']""")
    for package in ("unified", "inversion", "editing"):
        for path in (root / package).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path
