"""A generator whose pictures tell their w, and a classifier that reads it: directions known in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.stylegan.backbone import StyleGAN, StyleGAN2
from editing.direction_file import save_directions, user_file
from editing.directions import Direction, Directions
from tests.tiny import gan
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.space import spaces

WIDTH = 16


class Telling(StyleGAN2):
    """Writes the first layer's w into its pictures, through a sigmoid."""

    def render(self, view, styles, noise=None):  # type: ignore[no-untyped-def]
        flat = torch.full((len(styles), 3 * self.resolution**2), 0.5, dtype=styles.dtype)
        flat[:, :WIDTH] = torch.sigmoid(styles[:, 0])
        return flat.view(-1, 3, self.resolution, self.resolution)


class LinearClassifier:
    """Log-odds of "glow=on" are <a, w - mean>, of "tint=on" <b, w - mean>; "never" is shown by nothing."""

    vocabulary: Mapping[str, tuple[str, ...]] = {
        "glow": ("off", "on"),
        "tint": ("off", "on"),
        "ghost": ("never", "always"),
    }

    def __init__(self, a: Tensor, b: Tensor, mean: Tensor) -> None:
        self.normals, self.mean = {"glow": a, "tint": b}, mean

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        w = torch.logit(images.flatten(1)[:, :WIDTH].double()).float() - self.mean
        found = {k: torch.stack([torch.zeros(len(w)), 40 * w @ v], 1) for k, v in self.normals.items()}
        return {**found, "ghost": torch.tensor([[-50.0, 50.0]]).expand(len(w), 2)}


def units(count: int) -> Tensor:
    """Unit vectors [count, WIDTH], not orthogonal."""
    drawn = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.normalize(drawn, dim=1)


def styled(backbone: StyleGAN, pictures: int = 2, *, space: str = "w", extra: bool = False) -> Concept:
    """A concept of random w or w+; with `extra` also noise maps of its own and tuned weights."""
    rng = Random(3)
    number, width = backbone.style_shape()
    mean, _ = backbone.style_statistics()
    shape = (width,) if space == "w" else (number, width)
    w = mean + 0.3 * rng.normal(range(pictures), shape, dtype=backbone.dtype)
    codes = [spaces.get(space)().code({"w": w})]
    if extra:
        shapes = backbone.noise_shapes()
        noise = {k: rng.child(k).normal(range(pictures), s, dtype=backbone.dtype) for k, s in shapes.items()}
        codes.append(spaces.get("noise")().code(noise))
        path = backbone.tunable()[1][0]
        tuned = backbone.generator.get_parameter(path) * 1.5
        codes.append(spaces.get("weights")().code({path: tuned}, component="generator"))
    return Concept(codes=codes, name="<me>", carrier="person", category="person")


@pytest.fixture
def backbone() -> StyleGAN:
    return gan.stylegan()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def known(backbone: StyleGAN, cache: Path) -> Directions:
    """Three directions of the tiny generator, where `directions_for` finds them."""
    smile, glasses, skin = units(3)
    items = {
        "mouth=smile": Direction(smile, 0.5, 0.9, 0.1),
        "glasses=none": Direction(glasses, 0.25, 0.8, 0.5),
        "skin=pale": Direction(skin, 0.125),
    }
    directions = Directions(items, backbone.id, backbone.fingerprint, "test", 10, {"hair=bald": "not shown"})
    save_directions(directions, user_file(backbone.fingerprint))
    return directions
