"""The loss weights: they find where an attribute shows, and share evenly between large and small attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unified.zoo.focus import focus_map


def pictures(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A dot of 2x2 pixels shows the first attribute, the lower half the second; noise everywhere."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(100, 120, (count, 16, 16, 3), dtype=np.uint8)
    labels = numbers.integers(0, 2, (count, 2))
    images[:, 4:6, 4:6] += (80 * labels[:, 0]).astype(np.uint8)[:, None, None, None]
    images[:, 8:] += (80 * labels[:, 1]).astype(np.uint8)[:, None, None, None]
    return images, labels


def test_both_attributes_get_the_same_share_wherever_they_show() -> None:
    weights = focus_map(*pictures(), side=(16, 16), share=0.8)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    total = weights.sum()
    assert float(weights[4:6, 4:6].sum() / total) == pytest.approx(0.4, abs=0.05)
    assert float(weights[8:].sum() / total) == pytest.approx(0.4 + 0.1, abs=0.05)


def test_no_share_is_the_plain_loss() -> None:
    assert torch.allclose(focus_map(*pictures(), side=(8, 8), share=0.0), torch.ones(8, 8))


def test_pictures_without_described_attributes_weigh_alike() -> None:
    images, labels = pictures()
    assert torch.allclose(focus_map(images, labels[:, :0], side=(8, 8), share=0.6), torch.ones(8, 8))
