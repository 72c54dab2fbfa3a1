"""Where the square lies: the published formula, and how it moves with the face."""

import cmath
import math

import pytest
import torch

from unified.errors import UserError
from unified.faces.square import Square, face_square, five_points

FACE = torch.tensor([[40.0, 52.0], [62.0, 50.0], [51.0, 63.0], [43.0, 76.0], [61.0, 75.0]], dtype=torch.float64)


def moved(points: torch.Tensor, factor: complex, shift: complex) -> torch.Tensor:
    """Points turned and scaled by a complex number, then shifted by another."""
    values = [complex(x, y) * factor + shift for x, y in points.tolist()]
    return torch.tensor([[v.real, v.imag] for v in values], dtype=torch.float64)


def test_an_upright_face_worked_out_by_hand() -> None:
    # Eyes 20 apart at height 50, mouth 30 below: 3.6 x 30 = 108 > 4 x 20; the centre is 3 below the eyes.
    points = torch.tensor([[90.0, 50.0], [110.0, 50.0], [100.0, 60.0], [92.0, 80.0], [108.0, 80.0]])
    square = face_square(points)
    assert square.centre == pytest.approx((100, 53)) and square.right == pytest.approx((54, 0))
    assert square.side == pytest.approx(108)
    corners = [[46, -1], [46, 107], [154, 107], [154, -1]]
    torch.testing.assert_close(square.corners, torch.tensor(corners, dtype=torch.float64))
    wide = points.clone()
    wide[:2, 0] = torch.tensor([80.0, 120.0])  # now 4 x 40 is more
    assert face_square(wide).side == pytest.approx(160)


def test_it_is_the_quadrilateral_of_the_data_set() -> None:
    """With complex numbers, in which a quarter turn is a factor i (the picture's y points down)."""
    e0, e1, _, m0, m1 = (complex(*p) for p in FACE.tolist())
    eyes, down = (e0 + e1) / 2, (m0 + m1) / 2 - (e0 + e1) / 2
    x = (e1 - e0) + down / 1j
    x = x / abs(x) * max(2.0 * abs(e1 - e0), 1.8 * abs(down))
    centre, y = eyes + 0.1 * down, x * 1j
    expected = [centre - x - y, centre - x + y, centre + x + y, centre + x - y]
    assert face_square(FACE).corners.flatten().tolist() == pytest.approx(
        [v for c in expected for v in (c.real, c.imag)]
    )


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.9, math.pi])
def test_it_turns_grows_and_moves_with_the_face(angle: float) -> None:
    factor, shift = cmath.rect(2.5, angle), complex(-30, 400)
    one, other = face_square(FACE), face_square(moved(FACE, factor, shift))
    torch.testing.assert_close(other.corners, moved(one.corners, factor, shift))


def test_the_placement_puts_the_cut_between_the_corners() -> None:
    square = face_square(FACE)
    matrix, shift = square.placement(64)
    ends = torch.tensor([[-0.5, -0.5], [-0.5, 63.5], [63.5, 63.5], [63.5, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(ends @ matrix.T + shift, square.corners)


def test_leaving_the_picture() -> None:
    assert not Square((9.5, 9.5), (10.0, 0.0)).leaves(20, 20)  # the whole picture
    assert Square((9.5, 9.5), (7.5, 7.5)).leaves(20, 20)  # turned by 45 degrees
    assert Square((9.4, 9.5), (10.0, 0.0)).leaves(20, 20)


def test_bad_points_are_refused() -> None:
    for bad in (torch.zeros(5, 2), torch.full((5, 2), math.nan), torch.zeros(4, 2)):
        with pytest.raises(UserError):
            face_square(bad)


def test_five_of_sixty_eight() -> None:
    landmarks = torch.zeros(68, 2)
    landmarks[36:42] = torch.tensor([40.0, 52.0]) + torch.tensor([[-1.0, 0], [1, 0], [0, 2], [0, -2], [3, 1], [-3, -1]])
    landmarks[42:48] = FACE[1].float()
    landmarks[30], landmarks[48], landmarks[54] = FACE[2].float(), FACE[3].float(), FACE[4].float()
    torch.testing.assert_close(five_points(landmarks), FACE)
    assert torch.equal(five_points(FACE), FACE)
    with pytest.raises(UserError, match="68"):
        five_points(torch.zeros(67, 2))
