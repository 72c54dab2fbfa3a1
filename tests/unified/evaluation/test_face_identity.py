"""Faces are found, moved and averaged as by hand."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.unified.evaluation.colours import GREEN, HALF, RED, YELLOW, paint
from unified.errors import UserError
from unified.evaluation import arcface, face_identity
from unified.evaluation.face_identity import PLACES, SIDE, cut_face, similarity_transform

PLACED = torch.tensor(PLACES, dtype=torch.float64)


def test_the_transform_is_found_exactly() -> None:
    angle, scale, shift = 0.7, 1.9, torch.tensor([30.0, -4.0], dtype=torch.float64)
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    matrix, moved = similarity_transform(PLACED, PLACED @ (scale * rotation).T + shift)
    torch.testing.assert_close(matrix, scale * rotation)
    torch.testing.assert_close(moved, shift)


def test_mirrored_points_are_not_answered_by_mirroring() -> None:
    mirrored = PLACED * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    matrix, _ = similarity_transform(PLACED, mirrored)
    assert float(torch.linalg.det(matrix)) > 0


def test_the_transform_has_the_least_squares() -> None:
    torch.manual_seed(0)
    target = PLACED + 3 * torch.randn(5, 2, dtype=torch.float64)
    matrix, shift = similarity_transform(PLACED, target)

    def error(a: float, b: float, x: float, y: float) -> float:
        turned = torch.tensor([[a, -b], [b, a]], dtype=torch.float64)
        return float((PLACED @ turned.T + torch.tensor([x, y]) - target).square().sum())

    best = [float(matrix[0, 0]), float(matrix[1, 0]), float(shift[0]), float(shift[1])]
    for number in range(4):
        for step in (-1e-3, 1e-3):
            other = list(best)
            other[number] += step
            assert error(*other) > error(*best)


def test_a_face_in_its_place_is_cut_as_it_is() -> None:
    picture = torch.rand(3, SIDE, SIDE)
    torch.testing.assert_close(cut_face(picture, PLACED), picture, atol=1e-4, rtol=0)
    larger = torch.zeros(3, 200, 180)
    larger[:, 20 : 20 + SIDE, 30 : 30 + SIDE] = picture
    moved = PLACED + torch.tensor([30.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(cut_face(larger, moved), picture, atol=1e-4, rtol=0)


def test_points_all_in_one_place_are_refused() -> None:
    with pytest.raises(UserError, match="one place"):
        cut_face(torch.rand(3, 50, 50), torch.full((5, 2), 7.0, dtype=torch.float64))


def face(path: Path, colour: tuple[float, float, float], *, found: bool = True) -> None:
    paint(path, colour, size=(SIDE, SIDE))
    points = PLACED.tolist() if found else None
    path.with_name(path.name + ".face.json").write_text(json.dumps({"points": points}))


def embed(faces: torch.Tensor) -> torch.Tensor:
    return faces.mean((2, 3))


def test_averages_over_faces_and_counts_what_has_none(tmp_path: Path) -> None:
    """ann: references red and green; prompt 0 a red picture and one without a face; prompt 1 none with a face.
    bob: one red reference; prompt 0 a yellow picture."""
    data, generated = tmp_path / "data", tmp_path / "run"
    face(data / "ann" / "0.png", RED), face(data / "ann" / "1.png", GREEN)
    (data / "ann" / "prompts.txt").write_text("a photo of ann\nann from behind\n")
    face(data / "bob" / "0.png", RED), face(data / "bob" / "1.png", GREEN, found=False)
    face(generated / "ann" / "00" / "0.png", RED), face(generated / "ann" / "00" / "1.png", RED, found=False)
    face(generated / "ann" / "01" / "0.png", RED, found=False)
    face(generated / "bob" / "00" / "0.png", YELLOW)
    people = face_identity.read(data, generated)
    found = face_identity.evaluate(people, embed, name="colour", run="run").scores
    assert found["face-identity"].score.value == pytest.approx((0.5 + HALF) / 2, abs=1e-5)
    assert found["no-face"].score.value == pytest.approx((2 / 3 + 0) / 2)
    (generated / "bob" / "00" / "0.png.face.json").unlink()
    with pytest.raises(UserError, match="face detector"):
        face_identity.evaluate(people, embed, name="colour", run="run")


def test_nobody_with_a_face_is_an_error(tmp_path: Path) -> None:
    data, generated = tmp_path / "data", tmp_path / "run"
    face(data / "ann" / "0.png", RED)
    face(generated / "ann" / "00" / "0.png", RED, found=False)
    with pytest.raises(UserError, match="No generated picture"):
        face_identity.evaluate(face_identity.read(data, generated), embed, name="colour", run="run")
    with pytest.raises(UserError, match="no folder of a person"):
        face_identity.read(tmp_path / "nothing", generated)


def test_the_recognition_network_has_the_published_size(tmp_path: Path) -> None:
    """IResNet-50 is given as 43.59 million parameters; its file says by its names how deep it is."""
    network = arcface.IResNet(50)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(43.59, abs=0.02)
    small = arcface.IResNet(18)
    torch.save(small.state_dict(), tmp_path / "backbone.pth")
    found = arcface.load(tmp_path / "backbone.pth")
    faces = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(arcface.embed(found, faces), small.eval()(faces))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no IResNet"):
        arcface.load(tmp_path / "other.pth")
