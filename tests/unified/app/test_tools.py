"""Explore's tools: ends are what they say, the middle lies between, and what has no middle is refused."""

import math

import pytest
import torch

from tests.tiny.families import tiny
from unified.app.tools import (
    attention_maps,
    between_seeds,
    blend,
    great_circle,
    latents,
    mix_styles,
    overlaid,
    random_walk,
)
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.errors import UserError


def sample(seed: int) -> torch.Tensor:
    gan = tiny("stylegan")
    image: torch.Tensor = gan.generate(None, n=1, seed=seed, sampling={"truncation": 1.0}, output="pt")[0]
    return image


def test_rows_begin_and_end_at_the_seeds_own_pictures() -> None:
    gan = tiny("stylegan")
    rows = [
        between_seeds(gan, first=3, second=5, steps=5, truncation=1.0),
        mix_styles(gan, first=3, second=5, truncation=1.0),
    ]
    for row in rows:
        assert torch.allclose(row[0].image, sample(3), atol=1e-5) and row[0].label == "seed 3"
        assert torch.allclose(row[-1].image, sample(5), atol=1e-5) and row[-1].label == "seed 5"
        assert not torch.allclose(row[len(row) // 2].image, row[0].image, atol=1e-3)
    assert torch.allclose(random_walk(gan, seed=3, steps=3, stride=0.3, truncation=1.0)[0].image, sample(3), atol=1e-5)


def test_a_walk_keeps_to_likely_latents_and_goes_on_as_it_began() -> None:
    gan = tiny("stylegan")
    short, long = (random_walk(gan, seed=1, steps=n, stride=0.5, truncation=0.7) for n in (4, 8))
    assert all(torch.equal(a.image, b.image) for a, b in zip(short, long, strict=False))
    assert latents(gan, 1).shape == (1, 16)
    with pytest.raises(UserError, match="from 2 to 16"):
        random_walk(gan, seed=1, steps=1000, stride=0.5, truncation=0.7)


def test_great_circles_keep_the_length_and_turn_evenly() -> None:
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    third = great_circle(a, b, 1 / 3)
    assert torch.allclose(third[0], torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]), atol=1e-6)
    assert torch.allclose(third[1], a[1])  # the same direction: nowhere to turn
    noise = torch.randn(2, 1, 4000)
    assert great_circle(noise[0], noise[1], 0.5).std().item() == pytest.approx(1.0, abs=0.05)


def test_concepts_blend_in_their_space_or_are_refused() -> None:
    def concept(space: str, value: float, shape: tuple[int, ...] = (2, 16), mark: str = "f") -> Concept:
        return Concept([Code(space, {"w": torch.full(shape, value)}, per_picture=True)], fingerprint=mark)

    half = blend(concept("w", 0.0), concept("w", 1.0, (3, 16)), 0.25)
    assert torch.equal(half.codes[0].tensors["w"], torch.full((1, 16), 0.25))
    with pytest.raises(UserError, match="same recipe"):
        blend(concept("w", 0.0), concept("w+", 0.0), 0.5)
    with pytest.raises(UserError, match="same model"):
        blend(concept("w", 0.0), concept("w", 0.0, mark="other"), 0.5)
    with pytest.raises(UserError, match="differ in form"):
        blend(concept("w", 0.0), concept("w", 0.0, (2, 8)), 0.5)
    with pytest.raises(UserError, match="nothing between"):
        blend(concept("lora", 0.0), concept("lora", 0.0), 0.5)


def test_attention_has_a_map_for_each_word_of_the_picture_itself() -> None:
    sd = tiny("stable-diffusion")
    prompt = "a portrait of a person"
    found = attention_maps(sd, prompt=prompt, seed=2, concept=None, progress=Silent())
    assert [p.label for p in found] == ["picture", "a", "portrait", "of", "person"]
    plain = sd.generate(None, prompt=prompt, n=1, seed=2, output="pt")[0]
    assert torch.allclose(found[0].image, plain, atol=1e-3)  # looking does not change the picture
    assert not torch.allclose(found[2].image, found[4].image)
    with pytest.raises(UserError, match="no prompt"):
        attention_maps(sd, prompt=" ", seed=0, concept=None, progress=Silent())
    with pytest.raises(UserError, match="cannot be read"):
        attention_maps(tiny("stylegan"), prompt="a", seed=0, concept=None, progress=Silent())
    with pytest.raises(UserError, match="no space of styles"):
        mix_styles(sd, first=0, second=1, truncation=1.0)


def test_heat_is_brightest_where_it_is_largest() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    shown = overlaid(torch.full((3, 16, 16), 0.5), heat).mean(0)
    row, column = divmod(int(shown.argmax()), 16)
    assert (row // 4, column // 4) == (1, 2)
