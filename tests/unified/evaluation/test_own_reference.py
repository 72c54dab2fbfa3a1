"""Whose reference decides: by hand on a matrix, and on a generator that gives its pictures back."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import gan
from unified.avatars.benchmark import Person
from unified.contract.recipe import recipes
from unified.errors import UserError
from unified.evaluation.own_reference import compared, likeness


def test_by_hand() -> None:
    """Person 0 and 1 win against the next; person 2 loses to 0. Person 1 loses to 0, so one beats all."""
    found = compared(torch.tensor([[0.9, 0.6, 0.8], [0.1, 0.5, 0.2], [0.3, 0.4, 0.7]]))
    assert found.beats_next.mean == pytest.approx(2 / 3)
    assert found.beats_all.mean == pytest.approx(1 / 3)
    assert found.own.mean == pytest.approx(0.7)
    assert found.others.mean == pytest.approx((0.2 + 0.5 + 0.5) / 3)


def test_a_concept_of_one_person_is_nearest_to_that_person() -> None:
    backbone = gan.stylegan()
    base = backbone.generate(output="pt", n=3, seed=1)
    masks = torch.ones(2, 32, 32, dtype=torch.bool)
    people = [
        Person(f"person-{i}", torch.stack([each, each]), masks, (), (), (), out_of_domain=False)
        for i, each in enumerate(base)
    ]

    def identity(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1) - base.mean(0).flatten(), dim=1)

    recipe = recipes.get("image2stylegan").with_overrides(steps=40)
    found = likeness(backbone, recipe, people, identity, pictures=1, draws=1)
    assert found.shape == (3, 3) and compared(found).beats_all.mean == 1
    with pytest.raises(UserError, match=r"pictures=2.*has 2"):
        likeness(backbone, "image2stylegan", people, identity, pictures=2)
