"""Directions between class centres."""

from __future__ import annotations

import pytest
import torch

from editing.find.centres import CentreSettings, centre_direction, centres_from, class_centres
from editing.find.judging import Judge
from tests.editing.conftest import LinearClassifier, Telling, units
from tests.tiny import gan
from unified.contract.random import Random


def test_the_difference_of_the_means() -> None:
    latents = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 5.0], [2.0, 5.0], [9.0, 9.0]])
    shown = torch.tensor([False, False, True, True, False])
    absent = torch.tensor([True, True, False, False, False])
    found = centre_direction(latents, shown, absent)
    torch.testing.assert_close(found.vector, torch.tensor([3.0, 3.0]) / 18**0.5)
    assert found.deviation == pytest.approx(float((latents @ found.vector).std())) and found.accuracy == 1.0


def test_only_sure_samples_count() -> None:
    """Of log-odds -3, -0.1, 0.1, 3 the middle ones do not: their latents would turn the direction."""
    latents = torch.tensor([[-1.0, 0.0], [5.0, 9.0], [7.0, -9.0], [1.0, 0.0]]).repeat(30, 1)
    score = torch.tensor([-3.0, -0.1, 0.1, 3.0]).repeat(30)
    scores = {"glow": torch.stack([-score, score], 1)}
    items, left_out = centres_from(latents, scores, {"glow": ("off", "on")}, CentreSettings())
    torch.testing.assert_close(items["glow=on"].vector, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(items["glow=off"].vector, torch.tensor([-1.0, 0.0]))
    assert items["glow=on"].share == 0.5 and not left_out
    items, left_out = centres_from(
        latents[:40], {"glow": scores["glow"][:40]}, {"glow": ("off", "on")}, CentreSettings()
    )
    assert not items and "sure of 10" in left_out["glow=on"]


def test_known_directions_are_found() -> None:
    """The means differ along the covariance times the normal, which is what separates normal classes' centres."""
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, b, _ = units(3)
    judge = Judge("linear", LinearClassifier(a, b, backbone.style_statistics()[0]))
    settings = CentreSettings(samples=3000, batch=500)
    found = class_centres(backbone, judge, settings=settings, rng=Random(0))
    from editing.styles import sample_styles

    w = sample_styles(backbone, range(3000), truncation=1.0, rng=Random(0))[:, 0]
    expected = torch.nn.functional.normalize(torch.cov(w.T) @ a, dim=0)
    assert float(found.items["glow=on"].vector @ expected) > 0.98
    assert float(found.items["glow=off"].vector @ found.items["glow=on"].vector) < -0.999
    assert found.method == "centres" and found.extractor == "linear" and "3,000" in found.data
    assert set(found.left_out) == {"ghost=never", "ghost=always"}
