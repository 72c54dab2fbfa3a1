"""DragGAN: its two steps in closed form, and a generator whose pictures are planted to move with w."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from backbones.stylegan.backbone import StyleGAN2
from editing.drag import DragSettings, drag, place_for
from editing.latent.drag import at, direction, disc, motion_loss, still_loss, track
from tests.editing.conftest import styled
from tests.tiny import gan
from unified.contract.concept import Concept
from unified.contract.space import spaces
from unified.contract.target import Drag, Target
from unified.contract.view import View
from unified.errors import UserError
from unified.generation import generate

SIDE = 32
LEFT, RIGHT = (7.0, 16.0), (24.0, 16.0)  # centres of the two blobs
NEAR = 1.0 + 0.5**0.5  # a point is done within a pixel of its goal, and tracked to whole pixels
FAST = DragSettings(steps=80, lr=0.1 * (SIDE / 512) ** 0.5)


def blob(x: Tensor, y: Tensor) -> Tensor:
    """Smooth features [n, 4, SIDE, SIDE] around centres x, y [n], different on every side of them."""
    across = torch.arange(SIDE) - x[:, None, None]
    down = torch.arange(SIDE)[:, None] - y[:, None, None]
    near = torch.exp(-(across.square() + down.square()) / 12)
    return torch.stack([near, near * across / 3, near * down / 3, near * across * down / 9], 1)


class Moving(StyleGAN2):
    """Two blobs: w[0] moves the left one to the right by pixels, w[1] the right one, w[2] both, w[3] both down."""

    def features_of(self, view: View, index: Sequence[int]) -> Mapping[str, Tensor]:
        w = view.slots["styles"].rows(index)[:, :6].mean(1)
        left = blob(LEFT[0] + w[:, 0] + w[:, 2], LEFT[1] + w[:, 3])
        right = blob(RIGHT[0] + w[:, 1] + w[:, 2], RIGHT[1] + w[:, 3])
        return {"b32.conv1": torch.cat([left, right], 1)}


def at_rest(backbone: Moving, pictures: int = 1) -> Concept:
    number, width = backbone.style_shape()
    code = spaces.get("w+")().code({"w": torch.zeros(pictures, number, width)})
    return Concept(codes=[code], name="<me>", carrier="person", category="person")


def offsets(concept: Concept, row: int = 0) -> list[float]:
    return concept.codes[0].tensors["w"][row, :6].mean(0)[:4].tolist()


@pytest.fixture
def moving() -> Moving:
    return Moving("tiny/moving", gan.stylegan().generator)


# --- the two steps ---


def test_reading_between_pixels() -> None:
    """Bilinear interpolation of a plane is the plane."""
    features = torch.stack([torch.arange(8.0).expand(6, 8), torch.arange(6.0)[:, None].expand(6, 8)])
    points = torch.tensor([[0.0, 0.0], [3.25, 4.5], [7.0, 5.0]])
    torch.testing.assert_close(at(features, points), points)


def test_discs() -> None:
    assert disc((4.0, 4.0), 1.0, width=9, height=9).tolist() == [[4.0, 4.0]]
    assert len(disc((4.0, 4.0), 1.5, width=9, height=9)) == 9
    assert len(disc((0.0, 0.0), 1.5, width=9, height=9)) == 4  # what lies outside of the picture is left out
    assert len(disc((4.0, 4.0), 2.1, width=9, height=9)) == 13


def test_direction() -> None:
    torch.testing.assert_close(direction((1.0, 1.0), (4.0, 5.0)), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(direction((1.0, 1.0), (1.0, 1.5)), torch.tensor([0.0, 0.5]))
    assert not direction((2.0, 3.0), (2.0, 3.0)).any()


def test_motion_loss_in_closed_form() -> None:
    """On the plane F = 2x - y a step of one pixel to the right differs by 2; what is at the point gets no gradient."""
    plane = 2 * torch.arange(16.0).expand(16, 16) - torch.arange(16.0)[:, None]
    features = plane[None].clone().requires_grad_()
    loss = motion_loss(features, [(5.0, 6.0)], [(9.0, 6.0)], radius=0.5)
    assert float(loss.detach()) == pytest.approx(2.0, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, [features])
    # Only F(q + d) is moved, towards F(q): gradient descent lowers it at (6, 6) alone.
    assert slope[0].nonzero().tolist() == [[6, 6]] and float(slope[0, 6, 6]) == pytest.approx(1.0, rel=1e-4)
    two = motion_loss(features, [(5.0, 6.0), (5.0, 6.0)], [(9.0, 6.0), (5.0, 1.0)], radius=0.5)
    assert float(two) == pytest.approx(3.0, rel=1e-5)


def test_still_loss_counts_what_may_not_move() -> None:
    before, after = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    after[0, 1, 1], after[0, 3, 3] = 4.0, 8.0
    movable = torch.zeros(4, 4)
    movable[3, 3] = 1
    assert float(still_loss(after, before, movable)) == pytest.approx(4 / 16)


@pytest.mark.parametrize("step", [(3, -2), (-4, 0), (0, 0), (5, 5)])
def test_tracking_follows_a_shift(step: tuple[int, int]) -> None:
    features = torch.randn(5, SIDE, SIDE)
    wanted = features[:, 12, 15]
    shifted = features.roll((step[1], step[0]), (1, 2))
    assert track(shifted, (15.0, 12.0), wanted, radius=5) == (15.0 + step[0], 12.0 + step[1])
    assert track(features, (0.0, 31.0), features[:, 31, 0], radius=3) == (0.0, 31.0)


# --- a whole drag ---


def test_the_point_goes_to_its_goal(moving: Moving) -> None:
    dragged = drag(moving, at_rest(moving), [Drag(LEFT, (12.0, 12.0))], settings=FAST)
    (outcome,) = dragged.meta["drag"]["outcome"]
    assert math.dist(outcome["points"][0], (12.0, 12.0)) <= 1.0 and 0 < outcome["steps"] < FAST.steps
    across, _, both, down = offsets(dragged)
    # What was tracked is where the blob really is.
    assert math.dist((LEFT[0] + across + both, LEFT[1] + down), (12.0, 12.0)) <= NEAR
    w = dragged.codes[0].tensors["w"]
    assert not w[:, 6:].any() and bool(w[:, :6].any())  # later layers stay


def test_what_the_mask_leaves_out_stays(moving: Moving) -> None:
    movable = torch.zeros(SIDE, SIDE)
    movable[:, :18] = 1
    to = [Drag(LEFT, (11.0, 16.0))]
    free = offsets(drag(moving, at_rest(moving), to, settings=FAST))
    held = offsets(drag(moving, at_rest(moving), to, movable=movable, settings=FAST))
    assert abs(free[1] + free[2]) > 1.5  # unmasked, w[2] carries the right blob along
    assert abs(held[1] + held[2]) < 0.5
    assert held[0] + held[2] == pytest.approx(4.0, abs=NEAR)


def test_two_points_go_two_ways(moving: Moving) -> None:
    dragged = drag(moving, at_rest(moving), [Drag(LEFT, (11.0, 16.0)), Drag(RIGHT, (20.0, 16.0))], settings=FAST)
    across, other, both, _ = offsets(dragged)
    assert across + both == pytest.approx(4.0, abs=NEAR) and other + both == pytest.approx(-4.0, abs=NEAR)


def test_whole_pixels_may_be_integers(moving: Moving) -> None:
    start, goal = (7, 16), (12, 16)  # the left blob's centre and five pixels beside it
    found = drag(moving, at_rest(moving), [Drag(start, goal)], settings=FAST)
    floats = [Drag((7.0, 16.0), (12.0, 16.0))]
    torch.testing.assert_close(offsets(found), offsets(drag(moving, at_rest(moving), floats, settings=FAST)))


def test_each_picture_is_dragged_by_itself(moving: Moving) -> None:
    several = at_rest(moving, 2)
    several.codes[0].tensors["w"][1, :, 0] = -1.0
    dragged = drag(moving, several, [Drag(LEFT, (12.0, 16.0))], settings=FAST)
    one = drag(moving, at_rest(moving), [Drag(LEFT, (12.0, 16.0))], settings=FAST)
    torch.testing.assert_close(dragged.codes[0].tensors["w"][:1], one.codes[0].tensors["w"])
    assert len(dragged.meta["drag"]["outcome"]) == 2


def test_a_drag_to_itself_changes_nothing(backbone) -> None:
    concept = styled(backbone, 1, space="w+", extra=True)
    dragged = drag(backbone, concept, [Drag((5.0, 6.0), (5.0, 6.0))])
    assert torch.equal(dragged.codes[0].tensors["w"], concept.codes[0].tensors["w"])
    assert dragged.codes[1:] == concept.codes[1:] and dragged.meta["drag"]["outcome"][0]["steps"] == 0


def test_a_real_network_is_dragged_by_its_features(backbone) -> None:
    """Tuned weights, features and noise bound: the loss falls, later layers and other codes stay."""
    concept = styled(backbone, 1, space="w+", extra=True)
    settings = DragSettings(steps=5)
    before = {k: v.clone() for k, v in backbone.generator.state_dict().items()}
    dragged = drag(backbone, concept, [Drag((10.0, 10.0), (20.0, 10.0))], settings=settings)
    old, new = (c.codes[0].tensors["w"] for c in (concept, dragged))
    assert not torch.equal(new[:, :6], old[:, :6]) and torch.equal(new[:, 6:], old[:, 6:])
    assert dragged.codes[1] is concept.codes[1] and dragged.codes[2] is concept.codes[2]
    assert all(torch.equal(v, before[k]) for k, v in backbone.generator.state_dict().items())
    assert place_for(backbone, "") == "b32.conv1"


def test_the_scheme_and_random_samples(moving: Moving) -> None:
    target = Target(drags=(Drag((10.0, 10.0), (10.0, 10.0)),), n=1)
    assert torch.equal(generate(moving, [], target, seed=3), generate(moving, [], Target(n=1), seed=3))


def test_what_cannot_be_dragged(backbone) -> None:
    concept = styled(backbone, 1)
    movable = torch.zeros(SIDE, SIDE)
    for drags, mask, match in (
        ([Drag((32.0, 3.0), (3.0, 3.0))], None, "outside of the picture"),
        ([Drag((3.0, 3.0), (3.0, -1.0))], None, "goal"),
        ([Drag((3.0, 3.0), (5.0, 3.0))], movable, "outside of the mask"),
        ([Drag((3.0, 3.0), (5.0, 3.0))], torch.ones(8, 8), "shape"),
        ([], None, "No point"),
    ):
        with pytest.raises(UserError, match=match):
            drag(backbone, concept, drags, movable=mask)
    with pytest.raises(UserError, match="no features at 'b7'"):
        drag(backbone, concept, [Drag((3.0, 3.0), (5.0, 3.0))], settings=DragSettings(place="b7"))
    with pytest.raises(UserError, match="no style vectors"):
        drag(backbone, concept.with_codes([]), [Drag((3.0, 3.0), (5.0, 3.0))])


@pytest.mark.parametrize(("sides", "expected"), [((4, 8, 16, 32, 64), 64), ((4, 64, 128, 256, 512, 1024), 128)])
def test_features_are_those_of_the_sixth_block(
    moving: Moving, monkeypatch, sides: tuple[int, ...], expected: int
) -> None:
    """Block 1 is 4 x 4, so block 6 is 128 x 128 whatever the picture's size; the last one where there are fewer."""
    shapes = {f"b{side}{part}": (8, side, side) for side in sides for part in (".conv0", ".conv1", "")}
    monkeypatch.setattr(moving, "feature_shapes", lambda: shapes)
    monkeypatch.setattr(type(moving), "resolution", sides[-1])
    assert place_for(moving, "") == f"b{expected}" and place_for(moving, "b4") == "b4"


def test_both_terms_are_means_of_absolute_differences() -> None:
    """As the authors take them: the motion term over the pixels around a point, the other over the whole picture."""
    features, before = torch.randn(3, 16, 16), torch.randn(3, 16, 16)
    movable = (torch.rand(16, 16) > 0.5).float()
    frozen = sum(
        float((features[:, y, x] - before[:, y, x]).abs().sum())
        for y in range(16)
        for x in range(16)
        if not movable[y, x]
    )
    assert float(still_loss(features, before, movable)) == pytest.approx(frozen / (3 * 16 * 16), rel=1e-5)
    around = [(x, y) for x in range(16) for y in range(16) if math.dist((x, y), (6, 7)) < 2.5]
    moved = sum(float((features[:, y, x] - features[:, y, x + 1]).abs().sum()) for x, y in around)
    found = motion_loss(features, [(6.0, 7.0)], [(11.0, 7.0)], radius=2.5)
    assert float(found) == pytest.approx(moved / (3 * len(around)), rel=1e-4)


def test_tracking_between_pixels() -> None:
    """A plane's features tell where they are: the nearest point of the finer grid is found."""
    across, down = torch.arange(16.0).expand(16, 16), torch.arange(16.0)[:, None].expand(16, 16)
    features = torch.stack([across, down])
    wanted = torch.tensor([6.3, 8.8])
    assert track(features, (7.0, 8.0), wanted, radius=2) == (6.0, 9.0)
    assert track(features, (7.0, 8.0), wanted, radius=2, fine=4) == (6.25, 8.75)
    assert track(features, (15.0, 0.0), torch.tensor([20.0, -3.0]), radius=2, fine=4) == (15.0, 0.0)
