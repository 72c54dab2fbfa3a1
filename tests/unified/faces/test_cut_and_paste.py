"""Patterns whose values are known everywhere come back; what was not edited is not touched."""

import cmath

import pytest
import torch
from torch import Tensor

from tests.unified.faces.test_square import FACE, moved
from unified.errors import UserError
from unified.faces.cut import cut, outside
from unified.faces.paste import paste
from unified.faces.square import Square, face_square


def pattern(u: Tensor, v: Tensor) -> Tensor:
    """[3,...]: smooth, and different everywhere in the square, u and v from -1 to 1 in it."""
    return torch.stack([0.5 + 0.4 * torch.sin(3 * u + v), 0.5 + 0.4 * torch.cos(2 * v - u), 0.5 + 0.25 * u - 0.2 * v])


def photo(square: Square, height: int, width: int) -> Tensor:
    """A picture that shows the pattern in the square, computed at every pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.complex(columns.double(), rows.double()) - complex(*square.centre)
    local = place / complex(*square.right)  # turned and scaled back
    return pattern(local.real, local.imag)


def expected(size: int) -> Tensor:
    places = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    return pattern(places[None, :].expand(size, size), places[:, None].expand(size, size))


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.5, 1.3), (-2.0, 0.9), (0.1, 3.0)])
@pytest.mark.parametrize("size", [48, 200])
def test_a_turned_and_scaled_pattern_comes_back(angle: float, scale: float, size: int) -> None:
    factor = cmath.rect(scale, angle)
    points = moved(FACE, factor, 0)
    square = face_square(points)
    centre = complex(250, 210) - complex(*square.centre)
    square = face_square(moved(points, 1, centre))
    found = cut(photo(square, 430, 500), square, size)
    assert float((found - expected(size)).abs().max()) < 2e-3  # half a pixel off would be 0.01 and more


def test_a_square_on_the_pixels_is_cut_exactly() -> None:
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square = Square((9.5 + 6, 9.5 + 4), (10.0, 0.0))
    torch.testing.assert_close(cut(image, square, 20), image[:, 4:24, 6:26], rtol=0, atol=1e-12)
    halves = image[:, 4:24, 6:26].unflatten(1, (10, 2)).unflatten(3, (10, 2)).mean((2, 4))
    torch.testing.assert_close(cut(image, square, 10), halves, rtol=0, atol=1e-12)
    quarter = Square(square.centre, (0.0, 10.0))  # turned by 90 degrees: its right is the picture's down
    torch.testing.assert_close(
        cut(image, quarter, 20), torch.rot90(image[:, 4:24, 6:26], 1, (1, 2)), rtol=0, atol=1e-12
    )


def test_beyond_the_border_it_fades_to_the_median_and_inside_it_stays() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(3, 60, 60, generator=generator, dtype=torch.float64)
    square = Square((9.5, 29.5), (30.0, 0.0))  # the left third of it is outside
    found = cut(image, square, 60)
    torch.testing.assert_close(found[:, :, 36:], image[:, :, 16:40], rtol=0, atol=1e-12)
    median = image.flatten(1).median(1).values
    torch.testing.assert_close(found[:, :, 0], median[:, None].expand(3, 60), rtol=0, atol=0.05)
    matrix, shift = square.placement(60)
    far = outside(60, 60, square, matrix, shift, 60)
    assert float(far[30, 0]) == pytest.approx(19.5 / 20) and float(far[30, 59]) == pytest.approx(-39.5 / 20)
    white = cut(torch.ones(3, 60, 60, dtype=torch.float64), square, 60)
    torch.testing.assert_close(white, torch.ones_like(white))  # no dark edge


@pytest.mark.parametrize("size", [33, 64, 150])
def test_an_unchanged_cut_gives_the_picture_back_bit_for_bit(size: int) -> None:
    image = torch.rand(3, 90, 110, generator=torch.Generator().manual_seed(2))
    for square in (face_square(FACE), Square((5.0, 80.0), (30.0, 12.0)), Square((500.0, 500.0), (9.0, 0.0))):
        face = cut(image, square, size)
        assert torch.equal(paste(image, face, square), image)
        stored = (face * 255).round() / 255  # as a file holds it
        assert torch.equal(paste(image, stored, square), image)


def test_an_edit_replaces_its_own_place_alone() -> None:
    square = face_square(moved(FACE, cmath.rect(2.0, 0.3), complex(60, -10)))
    image = photo(square, 300, 260)
    face = cut(image, square, 128)
    edited = face.clone()
    edited[:, 60:70, 50:60] = 1.0
    result = paste(image, edited, square)
    changed = (result - image).abs().amax(0) > 0
    rows, columns = torch.meshgrid(torch.arange(300), torch.arange(260), indexing="ij")
    local = (torch.complex(columns.double(), rows.double()) - complex(*square.centre)) / complex(*square.right)
    column, row = (local.real + 1) * 64 - 0.5, (local.imag + 1) * 64 - 0.5
    near = (column > 40) & (column < 69) & (row > 50) & (row < 79)
    assert bool(changed.any()) and not bool((changed & ~near).any())
    inside = (column > 52) & (column < 57) & (row > 62) & (row < 67)
    torch.testing.assert_close(result[:, inside], torch.ones_like(result[:, inside]), rtol=0, atol=1e-9)


def test_an_edit_of_everything_comes_out_again() -> None:
    square = face_square(moved(FACE, cmath.rect(2.0, 0.3), complex(60, -10)))
    image = photo(square, 300, 260)
    edited = 1 - expected(160)
    again = cut(paste(image, edited, square), square, 160)
    assert float((again - edited)[:, 16:-16, 16:-16].abs().max()) < 5e-3
    edge = paste(image, edited, square) - image
    low = square.corners.amin(0).floor().int()
    assert float(edge[:, : max(int(low[1]) - 1, 0)].abs().sum()) == 0  # nothing outside of the square


def test_shapes_that_do_not_fit_are_refused() -> None:
    square = face_square(FACE)
    with pytest.raises(UserError, match="expected"):
        paste(torch.zeros(3, 90, 90), torch.zeros(3, 20, 30), square)
    with pytest.raises(UserError, match="at least 1"):
        cut(torch.zeros(3, 90, 90), square, 0)
