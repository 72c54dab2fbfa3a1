"""Finding faces in a real photo, the one that matplotlib ships; and what is said where there are none or several."""

import math
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unified.faces.test_square import FACE
from unified.errors import UserError
from unified.faces.cut import cut
from unified.faces.detector import Face, choose, find_faces
from unified.faces.square import Square
from unified.images import read_images

#: Eyes, tip of the nose and corners of the mouth in that photo of 512 x 600 pixels, read off by eye.
HOPPER = torch.tensor([[223.0, 190], [305, 189], [262, 238], [228, 269], [301, 267]], dtype=torch.float64)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    pytest.importorskip("yuface", reason="finding faces needs the extra 'faces'")
    from matplotlib.cbook import get_sample_data

    return read_images(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))[0]


def apart(one: Tensor, other: Tensor) -> float:
    """The largest distance of two points that are the same, in distances between the eyes."""
    return float((one - other).norm(dim=1).max() / (other[1] - other[0]).norm())


def test_a_face_is_found_with_its_points(photo: Tensor) -> None:
    (face,) = find_faces(photo)
    assert apart(face.points, HOPPER) < 0.1 and face.score > 0.8
    assert face.square.side == pytest.approx(4 * 82, rel=0.05)  # by its eyes, which are farther apart


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.4])
def test_turned_and_larger_the_points_turn_and_grow_with_it(photo: Tensor, angle: float) -> None:
    square = Square((262.0, 230.0), (180 * math.cos(angle), 180 * math.sin(angle)))
    matrix, shift = square.placement(600)
    (face,) = find_faces(cut(photo, square, 600))
    assert apart(face.points @ matrix.T + shift, HOPPER) < 0.12


def test_the_aligned_face_is_upright_where_the_data_set_has_it(photo: Tensor) -> None:
    square = Square((262.0, 230.0), (200 * math.cos(0.35), 200 * math.sin(0.35)))
    (turned,) = find_faces(cut(photo, square, 500))
    (face,) = find_faces(cut(cut(photo, square, 500), turned.square, 256))
    eyes, mouth = face.points[:2], face.points[3:]
    assert abs(float(eyes[0, 1] - eyes[1, 1])) < 6 and abs(float(eyes.mean(0)[0]) - 127.5) < 6
    assert float(eyes[1, 0] - eyes[0, 0]) == pytest.approx(256 / 4, abs=6)
    assert float(mouth.mean(0)[1] - eyes.mean(0)[1]) < 256 / 3.6 + 6


def test_several_faces_are_listed_from_left_to_right_and_large_photos_are_read_too(photo: Tensor) -> None:
    both = torch.ones(3, 1300, 2400)
    both[:, :600, :512] = photo
    both[:, 100:1300, 1300:2324] = functional.interpolate(photo[None], scale_factor=2, mode="bilinear")[0]
    left, right = find_faces(both)
    assert apart(left.points, HOPPER) < 0.12
    assert apart(right.points, 2 * HOPPER + torch.tensor([1300.5, 100.5])) < 0.12


def test_no_face_is_found_where_there_is_none() -> None:
    pytest.importorskip("yuface", reason="finding faces needs the extra 'faces'")
    noise = torch.rand(3, 200, 300, generator=torch.Generator().manual_seed(0))
    for picture in (noise, torch.full((3, 64, 64), 0.5), torch.zeros(3, 1, 700)):
        assert find_faces(picture) == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yuface", None)
    with pytest.raises(UserError, match=r"unified-personalization\[faces\].*face\.json"):
        find_faces(torch.zeros(3, 64, 64))


def test_choosing() -> None:
    one, two = Face(FACE, 0.9), Face(FACE + 100, 0.8)
    assert choose([one], None, name="a.png") is one and choose([one, two], 1, name="a.png") is two
    with pytest.raises(UserError, match=r"No face was found in a\.png"):
        choose([], None, name="a.png")
    with pytest.raises(UserError, match=r"shows 2 faces: choose one by its index \(0 at \(51, 53\), 88 pixels, 1 at"):
        choose([one, two], None, name="a.png")
    for index in (2, -1):
        with pytest.raises(UserError, match=f"no face {index}: it shows 2"):
            choose([one, two], index, name="a.png")
