"""Which layers decide an attribute, and how far an edit goes, on a generator that shows one layer's w."""

from __future__ import annotations

import pytest
import torch

from editing.directions import Direction
from editing.find.judging import log_odds
from editing.find.layers import deciding_layers, mixing_shares, shown_values
from editing.find.reach import REACHES, best_reach, crossed, with_reach
from editing.styles import sample_styles
from tests.editing.conftest import LinearClassifier, Telling, units
from tests.tiny import gan
from unified.contract.random import Random


def test_the_layers_between_where_the_first_and_the_last_are_enough() -> None:
    shares = {
        "hair": (torch.tensor([0.4, 0.6, 0.9, 1.0, 1.0]), torch.tensor([1.0, 0.4, 0.1, 0.0, 0.0])),
        "mouth": (torch.tensor([0.0, 0.0, 0.2, 0.9, 1.0]), torch.tensor([1.0, 1.0, 0.9, 0.8, 0.1])),
        "either half": (torch.tensor([0.0, 0.8, 0.9, 0.9, 1.0]), torch.tensor([1.0, 0.9, 0.9, 0.8, 0.1])),
        "never differs": (torch.zeros(5), torch.zeros(5)),
    }
    assert deciding_layers(shares) == {"hair": (0, 2), "mouth": (3, 3), "either half": (1, 3)}


def test_mixing_finds_the_layer_that_is_shown_and_the_strength_goes_past_the_mean_of_those_who_show_it() -> None:
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, b = units(2)
    mean, _ = backbone.style_statistics()
    classifier = LinearClassifier(a, b, mean)
    shares = mixing_shares(backbone, classifier, samples=40, rng=Random(1))
    number, _ = backbone.style_shape()
    upto, since = shares["glow"]  # the first layer is all that the pictures tell
    assert torch.equal(upto, torch.ones(number)) and torch.equal(since, torch.eye(number)[0])
    assert not any(each.any() for each in shares["ghost"])
    latents = sample_styles(backbone, range(200), truncation=1.0, rng=Random(2))[:, 0]
    glow = log_odds(torch.stack([torch.zeros(200), 40 * (latents - mean) @ a], 1))
    scores = dict.fromkeys(classifier.vocabulary, glow)
    item = Direction(a, float((latents @ a).std()))
    found = with_reach(backbone, classifier, {"glow=on": item}, latents, scores, rng=Random(3))["glow=on"]
    along = latents @ a
    shown = along > mean @ a
    way = float(along[shown].mean() - along.mean()) / item.deviation
    assert found.layers == (0, 0)
    assert found.strength in [pytest.approx(reach * way, abs=0.01) for reach in REACHES]


def test_the_reach_is_the_one_that_shows_the_value_and_leaves_the_rest() -> None:
    """A short step does not cross the boundary; one that leans on another attribute must not go too far."""
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, b = units(2)
    b = torch.nn.functional.normalize(b - (a @ b) * a, dim=0)
    mean, _ = backbone.style_statistics()
    classifier = LinearClassifier(a, b, mean)
    number, width = backbone.style_shape()
    styles = (mean - a + b).expand(6, number, width).clone()  # glow off by 1, tint on by 1
    own = shown_values(backbone, classifier, styles)
    steps = torch.stack([torch.zeros(width), 0.8 * a - 0.3 * b])

    def found(*reaches: float) -> float:
        span = (0, number - 1)
        return best_reach(backbone, classifier, "glow", steps, span, styles, own, reaches=reaches, rng=Random(0))

    assert found(1.0, 2.0, 5.0) == 2.0  # at 1 nothing glows, at 5 the tint is lost
    assert found(2.0, 3.0) == 2.0  # of equals the least


def test_crossed_styles_hold_layers_of_three() -> None:
    styles = torch.arange(5.0).reshape(5, 1, 1).expand(5, 8, 2)
    found = crossed(styles, rng=Random(0))
    steps = (found[:, :, 0] - torch.arange(5.0).unsqueeze(1)) % 5
    assert set(steps.unique().tolist()) <= {0.0, 1.0, 2.0} and bool((steps.diff(dim=1) >= 0).all())
    assert torch.equal(found[..., 0], found[..., 1]) and found.shape == styles.shape
