"""Where mouths end in avatars, and what counts as arriving."""

from __future__ import annotations

import math

import pytest
import torch

from unified.avatars import benchmark
from unified.evaluation.drags import (
    LEFT_CORNERS,
    Outcome,
    Trial,
    lower_face,
    mirrored,
    mouth_corners,
    summary,
)


def test_corners_are_found_in_pictures_of_the_benchmark() -> None:
    """In pictures without beards, of known mouths, both corners are where the table has them."""
    found = []
    for person in benchmark.load():
        for image, row in zip(person.images, person.attributes, strict=True):
            if row["facial_hair"] != "none" or row["mouth"] not in LEFT_CORNERS:
                continue
            corners = mouth_corners(image)
            assert corners is not None
            expected = [mirrored(LEFT_CORNERS[row["mouth"]], side) for side in (0, 1)]
            found.append(all(math.dist(c, e) <= 1.5 for c, e in zip(corners, expected, strict=True)))
    assert len(found) >= 40 and sum(found) >= 0.9 * len(found)


def test_a_drawn_mouth_sharp_and_blurred() -> None:
    image = torch.full((3, 64, 64), 0.8)
    image[:, 38:41, 27:36] = 0.1
    corners = mouth_corners(image)
    assert corners == ((27.0, 39.0), (35.0, 39.0))
    blurred = torch.nn.functional.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
    for one, other in zip(mouth_corners(blurred) or (), corners, strict=True):
        assert math.dist(one, other) <= 0.5
    image[:, 43:45, 22:24] = 0.2  # something else, not part of the mouth
    assert mouth_corners(image) == corners
    assert mouth_corners(torch.full((3, 64, 64), 0.8)) is None


def test_what_arrives() -> None:
    trial = Trial(seed=3, side=0, start=(29.0, 39.0), goal=(25.0, 39.0), mouth="tongue")
    near = Outcome(trial, (25.5, 39.0), (26.0, 39.0), 10, 0.9)
    lost = Outcome(trial, (25.5, 39.0), (29.0, 39.0), 20, 0.7)
    none = Outcome(trial, (28.0, 39.0), None, 300, 0.8)
    found = {name: each.mean for name, each in summary([near, lost, none, near]).items()}
    assert found["tracked arrived"] == 0.75 and found["seen arrived"] == 0.5
    assert found["pixels before"] == 4.0 and found["pixels seen"] == pytest.approx(2.0)
    assert mirrored((29.0, 39.0), 1) == (34.0, 39.0) and lower_face()[40, 30] == 1 and lower_face()[20, 30] == 0
