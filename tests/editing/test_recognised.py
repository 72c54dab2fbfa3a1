"""Voynov & Babenko and WarpedGANSpace: warps in closed form, and ways of a tiny generator that can be told apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from editing.direction_file import directions_for, save_directions, user_file
from editing.edits import edit
from editing.find.judging import Judge
from editing.find.recognised import (
    RecognitionSettings,
    deviation_of,
    pairs_of,
    recognised,
    steps_of,
    train_ways,
    voynov_directions,
    warped_paths,
)
from editing.latent.reconstructor import Reconstructor, Straight, Warped, follow, recognition_loss
from editing.styles import sample_styles
from tests.editing.conftest import styled
from tests.tiny import gan
from tests.unified.cli.test_edit import Warmth
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.errors import UserError

TINY = RecognitionSettings(ways=4, steps=120, batch=16, lr=3e-3, dipoles=3, tested=24, judged=16, spread=300)


def warp_value(warps: Warped, w: torch.Tensor, way: int) -> torch.Tensor:
    """Independent: the sum of dipoles itself."""
    x = (w - warps.mean) / warps.spread
    total = torch.zeros(len(w), dtype=w.dtype)
    for j in range(warps.places.shape[1]):
        for end, sign in ((0, 1), (1, -1)):
            far = (x - warps.places[way, j, end]).square().sum(1)
            total = total + sign * torch.exp(-warps.widths[way, j, end].exp() * far)
    return total


def test_steps_are_gradients_of_the_warp() -> None:
    torch.manual_seed(1)
    warps = Warped(3, 5, dipoles=4).double().requires_grad_(False)
    warps.mean, warps.spread = torch.randn(5).double(), torch.tensor(0.7).double()
    w = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(warp_value(warps, w, 2).sum(), w)
    step = warps(w.detach(), torch.full((6,), 2))
    torch.testing.assert_close(step, torch.nn.functional.normalize(slope, dim=1))
    far = warps(w.detach() + 1e3, torch.full((6,), 2))
    torch.testing.assert_close(far.norm(dim=1), torch.ones(6, dtype=torch.float64))  # no underflow


def test_a_path_climbs_its_warp_and_bends() -> None:
    torch.manual_seed(2)
    warps = Warped(1, 3, dipoles=2).requires_grad_(False)
    w = 0.5 * torch.randn(4, 3)
    points = [follow(warps, w, 0, length, longest=0.05) for length in (-0.6, 0.0, 0.6, 1.2)]
    values = [warp_value(warps, point, 0) for point in points]
    assert all(bool((b > a).all()) for a, b in pairwise(values))
    torch.testing.assert_close(points[1], w)
    assert bool(((points[3] - w).norm(dim=1) < 1.2).any())  # shorter than the way that was gone


def test_directions_stay_orthonormal_and_loss_in_closed_form() -> None:
    straight = Straight(4, 7)
    torch.testing.assert_close(straight.directions() @ straight.directions().T, torch.eye(4))
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    way, wanted = torch.tensor([0, 1]), torch.tensor([1.0, -2.0])
    loss = recognition_loss(logits, torch.tensor([0.0, -2.0]), way, wanted, weight=0.25)
    assert float(loss) == pytest.approx(torch.log(torch.tensor(2.0)).item() + 0.25 * 0.5)
    way, length = steps_of(TINY, 500, torch.Generator().manual_seed(0))
    assert set(way.tolist()) == {0, 1, 2, 3} and float(length.abs().min()) >= 0.5 and float(length.abs().max()) <= 3
    assert 0.4 < float((length > 0).float().mean()) < 0.6


@pytest.fixture(scope="module")
def backbone():
    return gan.stylegan()


@pytest.fixture(scope="module")
def warmth() -> Judge:
    return Judge("warmth", Warmth())


@pytest.mark.parametrize("kind", [Straight, Warped])
def test_what_is_found_can_be_told_apart(backbone, kind: type) -> None:
    """Fresh pairs of a trained run are recognised far above chance (1/4); and better than random directions are."""
    rng, (_, width) = Random(0), backbone.style_shape()
    torch.manual_seed(3)
    ways = Straight(4, width) if kind is Straight else Warped(4, width, dipoles=3)
    if isinstance(ways, Warped):
        ways.mean, ways.spread = backbone.style_statistics()[0], torch.tensor(deviation_of(backbone))
    before = {name: value.clone() for name, value in backbone.generator.state_dict().items()}
    first = ways(torch.zeros(4, width), torch.arange(4)).detach().clone()
    reconstructor = train_ways(backbone, ways, settings=TINY, rng=rng, progress=Silent())
    right = recognised(backbone, ways, reconstructor, settings=TINY, rng=rng)
    assert sum(right) / 4 > 0.6, right
    assert not torch.allclose(ways(torch.zeros(4, width), torch.arange(4)), first)
    assert all(torch.equal(value, before[name]) for name, value in backbone.generator.state_dict().items())
    untrained = Reconstructor(4, backbone.resolution).requires_grad_(False)
    assert sum(recognised(backbone, ways, untrained, settings=TINY, rng=rng)) / 4 < 0.5


def test_voynov_directions_are_edits(backbone, warmth: Judge, cache) -> None:
    settings = replace(TINY, steps=3)
    found = voynov_directions(backbone, warmth, settings=settings, rng=Random(0), progress=Silent())
    again = voynov_directions(backbone, warmth, settings=settings, rng=Random(0), progress=Silent())
    assert all(torch.equal(again.items[name].vector, d.vector) for name, d in found.items.items())
    assert set(found.items) == {f"direction-{k}" for k in range(4)}
    accuracies = [d.accuracy for d in found.items.values()]
    assert accuracies == sorted(accuracies, reverse=True)
    latents = sample_styles(backbone, range(300), truncation=1.0, rng=Random(0).child("spread"))[:, 0]
    for direction in found.items.values():
        assert direction.deviation == pytest.approx(float((latents @ direction.vector).std()), rel=1e-4)
    save_directions(found, user_file(backbone.fingerprint, found.method))
    concept = styled(backbone)
    moved = edit(backbone, concept, {"voynov:direction-1": 2.0}, directions=directions_for(backbone))
    step = moved.codes[0].tensors["w"] - concept.codes[0].tensors["w"]
    vector = 2.0 * found.items["direction-1"].deviation * found.items["direction-1"].vector
    torch.testing.assert_close(step, vector.expand(2, -1), rtol=1e-4, atol=1e-5)


def test_warped_paths_are_edits(backbone, warmth: Judge, cache) -> None:
    found = warped_paths(backbone, warmth, settings=replace(TINY, steps=3), rng=Random(0), progress=Silent())
    assert found.method == "warpedganspace" and set(found.paths) == {f"path-{k}" for k in range(4)}
    save_directions(found, user_file(backbone.fingerprint, found.method))
    known = directions_for(backbone)
    concept = styled(backbone, 2, space="w+", extra=True)
    w = concept.codes[0].tensors["w"]
    forth = edit(backbone, concept, {"warpedganspace:path-2": 1.0}, directions=known)
    straight = edit(backbone, concept, {"path-2": 1.0}, directions=found)
    assert torch.equal(forth.codes[0].tensors["w"], straight.codes[0].tensors["w"])
    step = forth.codes[0].tensors["w"] - w
    assert not torch.allclose(step[0], step[1], rtol=0, atol=1e-4)  # each its own way
    back = edit(backbone, forth, {"warpedganspace:path-2": -1.0}, directions=known).codes[0].tensors["w"]
    assert float((back - w).norm()) < 0.2 * float(step.norm())
    with pytest.raises(UserError, match="no attributes"):
        edit(backbone, concept, {"path-2|path-1": 1.0}, directions=found)


def test_pairs_show_the_step(backbone) -> None:
    styles = sample_styles(backbone, range(2), truncation=1.0, rng=Random(1))
    pairs = pairs_of(backbone, styles, torch.zeros(2, styles.shape[2]))
    assert pairs.shape == (2, 6, 32, 32) and torch.equal(pairs[:, :3], pairs[:, 3:])
