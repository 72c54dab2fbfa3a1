"""The models that come with the package: each loads, draws, and takes the encoders that were trained for it."""

from __future__ import annotations

import pytest
import torch

import unified
from unified.avatars import benchmark
from unified.contract.abilities import Denoises
from unified.zoo.registry import zoo

GENERATORS = [name for name, model in zoo if model.load and model.backbone and model.present]
# Recipes that one pass of an embedded encoder answers.
ENCODED = {
    "avatars/stylegan2": ("psp", "e4e", "restyle-psp", "restyle-e4e", "styletransformer", "hfgi", "hyperstyle"),
    "avatars/stable-diffusion": ("ip-adapter", "elite", "e4t"),
}


def test_the_paradigms_are_there() -> None:
    assert {"avatars/stylegan2", "avatars/stable-diffusion", "avatars/emu3", "avatars/var"} <= set(GENERATORS)


@pytest.mark.parametrize("name", GENERATORS)
def test_it_draws(name: str) -> None:
    backbone = unified.load(name)
    assert backbone.category == "person"
    sampling = {"steps": 4} if isinstance(backbone, Denoises) else {}
    one, two = (
        backbone.generate(prompt=prompt, sampling=sampling, seed=1, output="pt")
        for prompt in ("a person with red hair", "a person with blue hair")
    )
    assert one.shape == (1, 3, 64, 64) and bool(torch.isfinite(one).all())
    assert float(one.std()) > 0.05 and not torch.equal(one, two)


@pytest.mark.parametrize(("name", "recipe"), [(name, recipe) for name, those in ENCODED.items() for recipe in those])
def test_its_encoders_read_a_picture(name: str, recipe: str) -> None:
    backbone = unified.load(name)
    one, other = (
        [value for code in backbone.invert(person.images[:1], recipe=recipe).codes for value in code.tensors.values()]
        for person in benchmark.load()[:2]
    )
    assert all(bool(torch.isfinite(value).all()) for value in one if value.is_floating_point())
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
