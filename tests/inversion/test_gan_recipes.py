"""Published GAN inversions, each by what sets it apart, on a tiny random generator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.objectives.distribution import Distribution
from inversion.objectives.projected import ProjectedTarget
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.latent import Z
from inversion.spaces.style import NoiseMaps, WPlus
from tests.tiny.families import pictures, tiny
from tests.tiny.gan import stylegan
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, runnable
from unified.contract.reference import Reference
from unified.inversion import InvertSettings, invert, invert_many

NEW = ["image2stylegan++", "stochastic-clipping", "pgd", "improved-embedding", "stylespace", "bdinvert", "sam"]
NEW += ["pti-locality", "inverting-gan"]


def own_picture(*, seed: int = 3, count: int = 1) -> torch.Tensor:
    """Pictures of the generator itself."""
    gan = tiny("stylegan")
    z = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return gan.synthesis(gan.mapping(z)) / 2 + 0.5


def errors(concept: Concept, reference: Reference) -> torch.Tensor:
    with torch.no_grad(), tiny("stylegan").bound(concept) as view:
        return view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)


def short(name: str, steps: int) -> Recipe:
    return recipes.get(name).with_overrides(steps=steps)


@pytest.mark.parametrize("name", NEW)
def test_runs_alone_and_with_others_and_comes_back(name: str, tmp_path) -> None:
    gan = tiny("stylegan")
    first = pictures(gan, 1)
    second = Reference(pictures(gan, 2).images, category="a", name="<you>")
    together = invert_many(gan, [first, second], short(name, 2), InvertSettings())
    assert [concept.pictures for concept in together] == [1, 2]
    alone = invert(gan, first, short(name, 2), InvertSettings())
    assert torch.allclose(errors(alone, first), errors(together[0], first), rtol=1e-2)
    loaded = Concept.load(alone.save(tmp_path / "c.safetensors"))
    assert torch.equal(errors(loaded, first), errors(alone, first))
    assert recipes.get(name).cite and name not in runnable(type(tiny("stable-diffusion")))


def test_noise_maps_are_needed_where_the_recipe_is_about_them() -> None:
    from backbones.stylegan.backbone import StyleGAN3

    able = runnable(StyleGAN3)
    assert "image2stylegan++" not in able and {"bdinvert", "sam", "stylespace", "pti", "pti-locality"} <= set(able)


def test_image2stylegan_plus_leaves_the_noise_outside_of_the_mask_alone() -> None:
    """Abdal et al. 2020, section 3.1: local noise. And it goes on from the picture that W+ reached."""
    gan = tiny("stylegan")
    masks = torch.zeros(1, 1, 32, 32)
    masks[..., :16] = 1
    reference = Reference(pictures(gan, 1).images, masks)
    concept = invert(gan, reference, short("image2stylegan++", 15), InvertSettings())
    w, noise = concept.codes
    maps = gan.noise_maps()
    finest = noise.tensors["b32.conv1"][0]
    assert torch.equal(finest[:, 18:], maps["b32.conv1"][:, 18:])
    assert not torch.equal(finest[:, :14], maps["b32.conv1"][:, :14])
    inside = Reference(reference.images[..., :16], None)
    with torch.no_grad():
        before, after = (
            (picture[..., :16] - inside.images).square().mean()
            for picture in (_picture(Concept([w])), _picture(concept))
        )
    assert after < before


def _picture(concept: Concept) -> torch.Tensor:
    gan = tiny("stylegan")
    with gan.bound(concept) as view:
        return view.attempt(pictures(gan, concept.pictures or 1), rng=Random(0)).render()


def test_the_prior_of_the_improved_embedding_keeps_w_where_the_mapping_puts_it() -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    norms = []
    for name in ("image2stylegan", "improved-embedding"):
        plan = recipes.get(name).with_overrides(steps=25, lr=0.1)
        with gan.bound(invert(gan, reference, plan, InvertSettings())) as view:
            attempt = view.attempt(reference, rng=Random(0))
            norms.append(float(Distribution()(view, attempt, [], Step(0, 1)).mean()))
    assert norms[1] < norms[0]


def test_stochastic_clipping_stays_within_the_prior() -> None:
    gan = tiny("stylegan")
    plan = recipes.get("stochastic-clipping").with_overrides(steps=20, lr=1.0)
    z = invert(gan, pictures(gan, 2), plan, InvertSettings()).codes[0].tensors["z"]
    assert z.abs().max() <= 3.0


# --- PGD -------------------------------------------------------------------------------------------------


def test_the_target_takes_steps_of_descent_in_picture_space() -> None:
    """t = x + rate M (y - x), at steps 0 and `every`; between them it stands still."""
    gan = tiny("stylegan")
    masks = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    reference = Reference(pictures(gan, 2).images, masks)
    objective = ProjectedTarget(every=3, rate=0.25)
    rendered = [own_picture(seed=s, count=2) for s in range(4)]
    target = torch.zeros(())
    for number, image in enumerate(rendered):
        if number % 3 == 0:
            target = image + 0.25 * masks * (reference.images - image)
        code = WPlus().code({"w": torch.zeros(2, 8, 16)})
        with gan.bound(Concept([code])) as view:
            attempt = view.attempt(reference, rng=Random(0))
            attempt.render_fn = lambda image=image: image
            found = objective(view, attempt, [], Step(number, 10))
        assert torch.allclose(found, (image - target).square().flatten(1).mean(1), atol=1e-7)


def test_pgd_fills_in_pixels_that_were_not_measured() -> None:
    """Half of a picture of the generator: the other half comes nearer to the truth, too."""
    gan = tiny("stylegan")
    truth = own_picture()
    masks = torch.zeros(1, 1, 32, 32)
    masks[..., :16] = 1
    reference = Reference(truth * masks, masks)  # what was not measured is black
    plan = recipes.get("pgd").with_overrides(steps=90, lr=0.15)
    plan = replace(plan, stages=(replace(plan.stages[0], spaces=(Z(starts=20),)),))
    concept = invert(gan, reference, plan, InvertSettings())
    start = replace(plan, stages=(replace(plan.stages[0], method=replace(plan.stages[0].method, steps=0)),))
    before, after = (
        (_picture(c) - truth)[..., 16:].square().mean().item()
        for c in (invert(gan, reference, start, InvertSettings()), concept)
    )
    assert after < 0.6 * before


# --- BDInvert --------------------------------------------------------------------------------------------


def test_moved_features_move_the_picture() -> None:
    """Kang et al. 2021: why F can hold geometric transformations. One feature of 16 px is two pixels of 32."""
    gan = tiny("stylegan")
    styles = WPlus().code({"w": gan.mapping(torch.randn(1, 16)).clone()})
    silent = NoiseMaps().code({k: torch.zeros(1, *shape) for k, shape in gan.noise_shapes().items()})
    with gan.bound(Concept([styles, silent])) as view:
        f = gan.features_of(view, [0])["b16.conv0"]
    drawn = [
        _picture(Concept([styles, silent, FeatureMaps().code({"b16.conv0/replace": value})]))
        for value in (f, f.roll(1, dims=3))
    ]
    assert torch.allclose(drawn[1][..., 8:-8, 8:-8], drawn[0].roll(2, dims=3)[..., 8:-8, 8:-8], atol=1e-5)


def test_features_hold_a_moved_picture_better_than_w_plus() -> None:
    """With the same number of steps; the picture is one of the generator, moved by what is no feature's width."""
    gan = tiny("stylegan")
    moved = Reference(own_picture(count=2).roll((6, 5), dims=(2, 3)))
    step = Optimize(steps=30, lr=0.05)
    styles, features = Stage((WPlus(),), step), Stage((FeatureMaps(way="replace"), WPlus()), step)
    plus = invert(gan, moved, Recipe("w+", (styles, styles), "", ""), InvertSettings())
    both = invert(gan, moved, Recipe("f", (styles, features), "", ""), InvertSettings())
    assert bool((errors(both, moved) < 0.7 * errors(plus, moved)).all())


def test_bdinvert_holds_features_to_their_start_and_styles_to_their_density() -> None:
    """Without either term both go further (equations 3 and 4)."""
    gan = tiny("stylegan")
    reference = pictures(gan, 1)
    full = recipes.get("bdinvert").with_overrides(steps=(3, 25), lr=0.05)
    method = full.stages[1].method
    assert isinstance(method, Optimize)
    bare = replace(method, objectives=tuple(o for o in method.objectives if o.name not in ("anchor", "distribution")))
    free = replace(full, stages=(full.stages[0], replace(full.stages[1], method=bare)))
    moved, norms = [], []
    for plan in (full, free):
        concept = invert(gan, reference, plan, InvertSettings())
        start = invert(gan, reference, plan.with_overrides(steps=(3, 0)), InvertSettings())
        place = "b16.conv0/replace"
        moved.append(float((concept.codes[1].tensors[place] - start.codes[1].tensors[place]).square().mean()))
        norms.append(float(gan.whitened(concept.codes[2].tensors["w"]).square().mean()))
    assert moved[0] < moved[1] and norms[0] < norms[1]


# --- PTI -------------------------------------------------------------------------------------------------


def test_pti_of_several_pictures_has_a_pivot_for_each_and_weights_for_all() -> None:
    """Roich et al. 2022, section 3.1, multiple-identity personalisation."""
    gan = stylegan(seed=1)
    reference = pictures(gan, 3)
    concept = invert(
        gan, reference, recipes.get("pti").with_overrides(steps=(6, 20), lr=(0.05, 5e-3)), InvertSettings()
    )
    w, noise, weights = concept.codes
    assert w.pictures == 3 and noise.pictures == 3 and weights.pictures is None
    with torch.no_grad():
        with gan.bound(Concept([w, noise])) as view:
            before = view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)
        with gan.bound(concept) as view:
            after = view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)
    assert bool((after < before).all())
