"""Terms of the loss for GANs: masks, style, distribution, locality, anchors, identity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.objectives.anchor import Anchor
from inversion.objectives.distribution import Distribution, Spread
from inversion.objectives.error import Error
from inversion.objectives.identity import Identity
from inversion.objectives.locality import Locality, beside
from inversion.objectives.masked import MaskedError, MaskedPerceptual
from inversion.objectives.perceptual import Perceptual
from inversion.objectives.style import Style, gram
from inversion.spaces.parameter import Weights
from inversion.spaces.style import W, WPlus
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.objective import Objective, Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, refusal
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

BEGIN = Step(0, 10)


def w_plus(count: int = 2, *, seed: int = 0) -> Concept:
    """Random styles, different in each layer."""
    gan = tiny("stylegan")
    z = torch.randn(count * 8, 16, generator=torch.Generator().manual_seed(seed))
    return Concept([WPlus().code({"w": gan.mapping(z)[:, 0].reshape(count, 8, 16)})])


def value(objective: Objective, concept: Concept, reference: Reference) -> torch.Tensor:
    with tiny("stylegan").bound(concept) as view:
        return objective(view, view.attempt(reference, rng=Random(0)), concept.codes, BEGIN)


def half_masked(gan, *, left: float = 1.0, right: float = 0.0) -> Reference:
    reference = pictures(gan, 2)
    masks = torch.zeros(2, 1, 32, 32)
    masks[..., :16], masks[..., 16:] = left, right
    return Reference(reference.images, masks)


def test_masked_terms_without_masks_are_the_plain_ones() -> None:
    gan, concept = tiny("stylegan"), w_plus()
    reference = pictures(gan, 2)
    assert torch.equal(value(MaskedError(), concept, reference), value(Error(), concept, reference))
    plain, masked = value(Perceptual(), concept, reference), value(MaskedPerceptual(), concept, reference)
    assert torch.allclose(plain, masked, rtol=1e-5)


def test_a_mask_and_its_complement_add_up() -> None:
    gan, concept = tiny("stylegan"), w_plus()
    left, right = half_masked(gan), half_masked(gan, left=0.0, right=1.0)
    for objective in (MaskedError(), MaskedPerceptual()):
        both = value(objective, concept, left) + value(objective, concept, right)
        assert torch.allclose(both, value(objective, concept, pictures(gan, 2)), rtol=1e-4)


def test_what_is_outside_of_the_mask_does_not_count() -> None:
    gan, concept = tiny("stylegan"), w_plus()
    reference = half_masked(gan)
    images = reference.images.clone()
    images[..., 16:] = 1 - images[..., 16:]
    other = Reference(images, reference.masks)
    assert torch.equal(value(MaskedError(), concept, reference), value(MaskedError(), concept, other))
    assert not torch.equal(value(Error(), concept, reference), value(Error(), concept, other))


def test_style_is_blind_to_place_and_sees_texture() -> None:
    features = torch.randn(2, 5, 6, 6)
    shuffled = features.flatten(2)[:, :, torch.randperm(36)].reshape(features.shape)
    assert torch.allclose(gram(features), gram(shuffled), atol=1e-5)
    expected = torch.einsum("ncp,ndp->ncd", features.flatten(2), features.flatten(2)) / 36
    assert torch.allclose(gram(features), expected, atol=1e-6)
    gan, concept = tiny("stylegan"), w_plus()
    with gan.bound(concept) as view:
        own = Reference(view.attempt(pictures(gan, 2), rng=Random(0)).render().detach())
    assert torch.allclose(value(Style(), concept, own), torch.zeros(2), atol=1e-9)
    assert bool((value(Style(), concept, pictures(gan, 2)) > 0).all())


def test_distribution_is_one_for_samples_and_zero_at_the_centre() -> None:
    gan = tiny("stylegan")
    many = w_plus(200)
    assert value(Distribution(), many, pictures(gan, 200)).mean() == pytest.approx(1.0, abs=0.1)
    centre = gan.unwhitened(torch.zeros(1, 16))
    concept = Concept([W().code({"w": centre})])
    assert value(Distribution(), concept, pictures(gan, 1)).item() == pytest.approx(0.0, abs=1e-6)


def test_spread_is_the_sum_of_the_distances_to_the_first_layer() -> None:
    gan = tiny("stylegan")
    w = torch.zeros(1, 8, 16)
    w[0, 2, :4], w[0, 5, 0] = 1.0, -3.0  # lengths 2 and 3
    assert value(Spread(), Concept([WPlus().code({"w": w})]), pictures(gan, 1)).item() == pytest.approx(5.0, abs=1e-4)


def test_locality_is_zero_for_the_untuned_generator_only() -> None:
    gan, concept = tiny("stylegan"), w_plus()
    reference = pictures(gan, 2)
    assert torch.equal(value(Locality(alpha=3.0), concept, reference), torch.zeros(2))
    with gan.bound(concept) as view:
        weights = Weights(paths="synthesis").initial(view, reference, rng=Random(0))
    tuned = concept.with_codes([*concept.codes, weights.map(lambda t: t * 1.2)])
    assert bool((value(Locality(alpha=3.0), tuned, reference) > 0).all())


def test_locality_looks_alpha_away_on_the_way_to_a_sample() -> None:
    """Roich et al. 2022, equation 4."""
    pivot, towards = torch.randn(3, 8, 16), torch.randn(3, 16)
    moved = beside(pivot, towards, alpha=0.5)
    assert torch.allclose((moved - pivot).norm(dim=2), torch.full((3, 8), 0.5), atol=1e-5)
    gap = towards.unsqueeze(1) - pivot
    assert torch.allclose((towards.unsqueeze(1) - moved).norm(dim=2), gap.norm(dim=2) - 0.5, atol=1e-4)


def test_locality_keeps_a_tuned_generator_nearer_to_the_untuned_one() -> None:
    """What it is for: the same tuning, with and without, and how far other latents' pictures have moved."""
    gan = tiny("stylegan")
    reference = pictures(gan, 1)
    z = torch.randn(16, 16, generator=torch.Generator().manual_seed(9))
    base = gan.synthesis(gan.mapping(z)) / 2 + 0.5
    moved = []
    for terms in ((Error(),), (Error(), Locality(weight=10.0, alpha=1.0))):
        method = Optimize(steps=25, lr=3e-3, objectives=terms, keep="last")
        stages = (Stage((W(),), Optimize(steps=5, lr=0.05)), Stage((Weights(paths="synthesis"),), method))
        concept = invert(gan, reference, Recipe("test", stages, "", ""), InvertSettings())
        with gan.bound(concept) as view:
            moved.append(float((gan.render(view, gan.mapping(z)) - base).square().mean()))
    assert moved[1] < 0.7 * moved[0]


def test_anchor_remembers_the_start_and_not_between_runs() -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    anchor = Anchor(weight=100.0, space="w+")

    def run(terms) -> torch.Tensor:
        plan = Recipe("t", (Stage((WPlus(),), Optimize(steps=15, lr=0.1, objectives=terms, keep="last")),), "", "")
        return invert(gan, reference, plan, InvertSettings()).codes[0].tensors["w"]

    with gan.bound() as view:
        start = WPlus().initial(view, reference, rng=Random(0)).tensors["w"]
    free, held = run((Error(),)), run((Error(), anchor))
    assert (held - start).square().mean() < 0.1 * (free - start).square().mean()
    assert not anchor.state_dict()  # the run worked on a copy
    assert torch.equal(run((Error(), anchor)), held)


def test_anchor_says_what_it_misses() -> None:
    gan = tiny("stylegan")
    plan = Recipe("t", (Stage((WPlus(),), Optimize(steps=1, objectives=(Anchor(space="f"),))),), "", "")
    with pytest.raises(UserError, match="space 'f'"):
        invert(gan, pictures(gan, 1), plan, InvertSettings())


def test_anchor_survives_an_interruption(tmp_path) -> None:
    """Six steps are three and three, also for what an objective remembers."""
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    method = Optimize(steps=6, lr=0.1, objectives=(Error(), Anchor(space="w+")), keep="last", checkpoint_every=3)
    plan = Recipe("t", (Stage((WPlus(),), method),), "", "")
    whole = invert(gan, reference, plan, InvertSettings())

    class Stop:
        def start(self, label, total) -> None: ...

        def advance(self, done, *, loss=None) -> None:
            if done == 4:
                raise KeyboardInterrupt

        def finish(self) -> None: ...

    invert(gan, reference, plan, InvertSettings(checkpoints=tmp_path, progress=Stop()))
    resumed = invert(gan, reference, plan, InvertSettings(checkpoints=tmp_path))
    assert torch.equal(whole.codes[0].tensors["w"], resumed.codes[0].tensors["w"])


def test_identity_is_zero_for_the_same_picture() -> None:
    gan, concept = tiny("stylegan"), w_plus()
    with gan.bound(concept) as view:
        own = Reference(view.attempt(pictures(gan, 2), rng=Random(0)).render().detach())
    assert torch.allclose(value(Identity(), concept, own), torch.zeros(2), atol=1e-5)
    other = value(Identity(), concept, pictures(gan, 2))
    assert bool((other > 1e-3).all()) and bool((other <= 2).all())


def test_objectives_for_gans_are_refused_elsewhere() -> None:
    diffusion = type(tiny("stable-diffusion"))
    from inversion.spaces.textual import Word

    method = Optimize(objectives=(Error(), Distribution()))
    reason = refusal(diffusion, [Stage((Word(),), method)])
    assert reason is not None and "'distribution'" in reason and "renders from style vectors" in reason
    assert refusal(diffusion, [Stage((Word(),), replace(method, objectives=(Error(),)))]) is None
