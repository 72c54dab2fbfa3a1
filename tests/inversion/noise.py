"""What the tests of noise inversions share."""

from __future__ import annotations

import pytest
import torch

from tests.tiny.families import pictures
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.inversion import InvertSettings, invert

FAMILIES = pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
SOURCE = "a portrait of a a"  # the default prompt of an inversion, for pictures() of category "a"


def noise_concept(backbone: Backbone, space, method, *, count: int = 2) -> tuple[Concept, Reference]:
    reference = pictures(backbone, count)
    return invert(backbone, reference, Recipe("test", (Stage((space,), method),), "", ""), InvertSettings()), reference


def by_recipe(backbone: Backbone, name: str, *, steps: int, count: int = 2) -> tuple[Concept, Reference]:
    reference = pictures(backbone, count)
    return invert(backbone, reference, recipes.get(name).with_overrides(steps=steps), InvertSettings()), reference


def root_mean_square(backbone: Backbone, concept: Concept, reference: Reference, target: Target) -> float:
    """Error of the latents under a target."""
    with backbone.bound(concept) as view, torch.no_grad():
        latents = backbone.encode(view, reference.images)
        found = backbone.sample_latents(view, target, rng=Random(3))
    return float((found - latents).square().mean().sqrt())


def worst(backbone: Backbone, concept: Concept, reference: Reference, target: Target | None = None) -> float:
    """Largest error of the latents that the concept gives back."""
    with backbone.bound(concept) as view, torch.no_grad():
        latents = backbone.encode(view, reference.images)
        found = backbone.sample_latents(view, target or Target(), rng=Random(3))
    return float((found - latents).abs().max())
