"""Inversion without gradients: evolution of a word, estimates of gradients, 8-bit weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from inversion.methods.black_box import Vector
from inversion.methods.evolution import Evolution
from inversion.methods.zeroth_order import Descent, ZerothOrder, estimate, noisy_directions
from inversion.spaces.quantised import Int8Weights, quantised
from inversion.spaces.style import WPlus
from inversion.spaces.textual import Word
from inversion.spaces.word_subspace import WordSubspace
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.objective import Objective
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.shadow import pristine_tensor
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SD = "stable-diffusion"


# --- evolution of codes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Near(Objective):
    """Squared distance of the word's row from a known one: 0.5 and -0.3 along the first two directions."""

    name: ClassVar[str] = "near"
    weight: float = 1.0

    def __call__(self, view, attempt, codes, step):
        backbone = view.backbone
        row = view.component("text_encoder").get_input_embeddings()(torch.tensor([view.rows["<me>"]]))
        directions = WordSubspace(dimensions=2)._directions(backbone, backbone.texts()[0])
        known = codes[0].tensors["row/text_encoder"] + torch.tensor([0.5, -0.3]) @ directions
        return (row - known).square().sum().expand(len(attempt.error))


def test_evolution_finds_a_known_word_and_leaves_the_held_row() -> None:
    backbone, space = tiny(SD), WordSubspace(dimensions=2)
    method = Evolution(steps=25, population=None, objectives=(Near(),))
    concept = invert(
        backbone, pictures(backbone, 1), Recipe("t", (Stage((space,), method),), "prompt", ""), InvertSettings()
    )
    code = concept.codes[0]
    with backbone.bound() as view:
        start = space.initial(view, pictures(backbone, 1), rng=Random(0))
    assert torch.equal(code.tensors["row/text_encoder"], start.tensors["row/text_encoder"])
    assert torch.allclose(code.tensors["text_encoder"], torch.tensor([0.5, -0.3]), atol=0.02)
    log = concept.meta["stages"][0]
    assert log["evaluations"] == 25 * 6 and log["losses"][-1] < 1e-2 * log["losses"][0]


def test_all_samples_of_a_generation_see_the_same_noise() -> None:
    backbone = tiny(SD)
    seen: list[float] = []

    @dataclass(frozen=True)
    class Nothing(Near):
        def __call__(self, view, attempt, codes, step):
            seen.append(float(attempt.error.mean()))
            return torch.zeros(len(attempt.error))

    method = Evolution(steps=2, population=3, sigma=1e-9, objectives=(Nothing(),))
    plan = Recipe("t", (Stage((WordSubspace(),), method),), "prompt", "")
    invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    first, second = seen[:3], seen[3:]
    assert max(first) - min(first) < 1e-6 < abs(first[0] - second[0])


def test_the_subspace_holds_the_vocabularys_rows() -> None:
    backbone = tiny(SD)
    weight = backbone.components["text_encoder"].get_input_embeddings().weight.detach()
    directions = WordSubspace()._directions(backbone, backbone.texts()[0])
    assert directions.shape == (8, 8)
    away = weight - weight.mean(0)
    coefficients = torch.linalg.lstsq(directions.T, away.T).solution
    assert torch.allclose((directions.T @ coefficients).T, away, atol=1e-6)
    assert torch.allclose(coefficients.square().mean(1), torch.ones(8), atol=1e-4)  # in units of the deviation
    few = WordSubspace(dimensions=3)._directions(backbone, backbone.texts()[0])
    assert torch.equal(few, directions[:3])


# --- zeroth order ---------------------------------------------------------------------------------------------


def test_the_estimate_has_the_gradient_as_its_mean_but_for_its_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(6, generator=generator).double()
    directions = torch.randn(200_000, 6, generator=generator).double()
    one = torch.stack([estimate(directions[i] @ gradient[:, None], directions[i : i + 1], 6) for i in range(2000)])
    assert one.square().sum(1).mean().sqrt() == pytest.approx(float(gradient.norm()), rel=0.25)
    many = estimate(directions @ gradient, directions, 6)
    assert torch.allclose(many, gradient, atol=0.02)  # with many directions the scale is 1


def test_directions_of_noise_are_those_of_least_variance() -> None:
    """Nine coordinates that move together, with a little noise each: all but their common direction is noise."""
    generator = torch.Generator().manual_seed(0)
    common = torch.linspace(-1, 1, 64).double()[:, None]
    codes = common.expand(-1, 9) + 1e-3 * torch.randn(64, 9, generator=generator)
    found = noisy_directions(codes, 1e-3)
    assert found.shape == (8, 9) and torch.allclose(found @ found.T, torch.eye(8).double(), atol=1e-9)
    assert (found @ torch.ones(9).double()).abs().max() < 0.05
    assert len(noisy_directions(codes, 0.0)) == 0
    assert len(noisy_directions(torch.randn(20, 9, generator=generator).double(), 0.99)) == 8  # one is left
    assert len(noisy_directions(torch.ones(4, 3).double(), 1e-3)) == 0


def test_descent_is_freed_of_noisy_directions_once_the_history_is_full() -> None:
    method = ZerothOrder(lr=0.1, noise=1e-3)
    descent, values = Descent(3, method, history=4), torch.zeros(3).double()
    slope, along = torch.tensor([1.0]).double(), torch.tensor([[1.0, 1.0, 1.0]]).double()
    for number in range(4):
        values = descent.step(values, slope, along)
        assert len(descent.noisy) == 0 or number == 3
    common = torch.ones(3).double() / 3**0.5
    descent.noisy = torch.linalg.qr(torch.stack([common, *torch.eye(3).double()[:2]]).T)[0].T[1:]
    before = values
    after = descent.step(values, slope, torch.tensor([[3.0, 0.0, 0.0]]).double())
    moved = after - before
    assert torch.allclose(moved / moved.norm(), -common, atol=0.05)


def test_descent_reaches_a_known_minimum_from_losses_alone() -> None:
    target = torch.linspace(-1, 1, 12).double()
    descent, values, rng = (
        Descent(12, ZerothOrder(lr=0.02, noise=1e-3), history=64),
        torch.zeros(12).double(),
        Random(0),
    )
    for number in range(1500):
        z = rng.child(number).normal(range(2), (12,), dtype=torch.float64)
        here = (values - target).square().sum()
        there = torch.stack([(values + 1e-3 * one - target).square().sum() for one in z])
        values = descent.step(values, (there - here) / 1e-3, z)
    assert (values - target).square().sum() < 0.02 * target.square().sum()


def test_eight_bits_are_within_half_a_step_and_the_view_computes_with_them() -> None:
    backbone = tiny(SD)
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    numbers, scale = quantised(weight)
    assert numbers.dtype is torch.int8 and numbers.abs().max() == 127
    assert bool(((numbers * scale - weight).abs() <= scale / 2 + 1e-7).all())
    again, _ = quantised(numbers * scale)
    assert torch.equal(again, numbers)
    with backbone.bound() as view:
        code = Int8Weights().initial(view, pictures(backbone, 1), rng=Random(0))
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with backbone.bound(Concept([code])) as view:
        found = pristine_tensor(view.component("unet"), path)
    base = pristine_tensor(backbone.components["unet"], path)
    integers, scale = quantised(base)
    assert torch.equal(found, integers * scale) and not torch.equal(found, base)


def test_the_method_searches_through_eight_bits_at_the_levels_it_names() -> None:
    backbone = tiny(SD)
    logs = []
    for bits in (True, False):
        method = ZerothOrder(steps=3, quantised=bits, levels=(0.5, 0.9))
        plan = Recipe("t", (Stage((Word(),), method),), "prompt", "")
        logs.append(invert(backbone, pictures(backbone, 2), plan, InvertSettings()).meta["stages"][0]["losses"])
    assert len(logs[0]) == 3 and logs[0] != logs[1]
    assert logs[0] == pytest.approx(logs[1], rel=0.05)
    reference, spaces = pictures(backbone, 2), (Word(),)
    with backbone.bound() as view:
        codes = [Word().initial(view, reference, rng=Random(0).child("invert", 0).child("initial", "word"))]
    rng = Random(0).child("invert", 0).child("step", 0)
    with backbone.bound(Concept(codes)) as view, torch.no_grad():
        vector = Vector.of(view, spaces, codes, keys=reference.keys)
        time, a, s = backbone.random_levels(0.5 + 0.4 * rng.child("level").uniform(reference.keys))
        assert bool((time >= 500).all() and (time < 900).all())
        x0 = backbone.encode(view, reference.images)
        eps = rng.child("eps").normal(reference.keys, x0.shape[1:])
        noisy = a.view(-1, 1, 1, 1).float() * x0 + s.view(-1, 1, 1, 1).float() * eps
        output = backbone.predict(view, noisy, time, backbone.condition(view, ["<me>"] * 2))
        assert vector.read().shape == (8,)
    assert logs[1][0] == pytest.approx(float((output - eps).square().mean()), rel=1e-5)


# --- recipes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradient-free-ti", "zoodip"])
@pytest.mark.parametrize("family", [SD, "flux"])
def test_recipes_run_and_their_concepts_are_drawn_as_loaded(name: str, family: str, tmp_path) -> None:
    backbone = tiny(family)
    concept = invert(backbone, pictures(backbone, 2), recipes.get(name).with_overrides(steps=2), InvertSettings())
    start = invert(backbone, pictures(backbone, 2), recipes.get(name).with_overrides(steps=0), InvertSettings())
    assert any(not torch.equal(value, start.codes[0].tensors[key]) for key, value in concept.codes[0].tensors.items())
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt", "n": 1}
    drawn = backbone.generate(concept, **options)
    assert torch.equal(drawn, backbone.generate(Concept.load(concept.save(tmp_path / "c")), **options))


def test_what_makes_no_sense_is_refused() -> None:
    gan, backbone = tiny("stylegan"), tiny(SD)
    assert refusal(type(gan), recipes.get("zoodip").stages) is not None
    assert "one for each" in (refusal(type(gan), [Stage((WPlus(),), Evolution())]) or "")
    with pytest.raises(UserError, match="at most 2000"):
        plan = Recipe("t", (Stage("word & lora", Evolution(steps=1)),), "prompt", "", carrier="a")
        invert(backbone, replace(pictures(backbone, 1)), plan, InvertSettings())
