"""From files to files and back, with points from a file or a detector that is given."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unified.faces.test_square import FACE
from unified.cli import main
from unified.errors import UserError
from unified.evaluation.face_identity import read_points
from unified.faces.align import align, align_all, paste_back, read_place, save_all, write_points
from unified.faces.detector import Face
from unified.faces.square import face_square
from unified.images import read_images, save_image

Command = Callable[..., tuple[int, str, str]]


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(seed))
    return save_image(torch.nn.functional.interpolate(smooth, (120, 140), mode="bicubic")[0].clamp(0, 1), path)


def two_faces(picture: Tensor) -> list[Face]:
    return [Face(FACE, 0.9), Face(FACE + torch.tensor([30.0, 10.0]), 0.9)]


def none(picture: Tensor) -> list[Face]:
    return []


def test_points_beside_a_picture_need_no_detector(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    write_points(path, FACE)
    found = align(path, detect=none)
    assert found.square == face_square(FACE) and found.image.shape == (3, 88, 88)  # 4 x 22.1 pixels between the eyes
    assert align(path, size=32, detect=none).image.shape == (3, 32, 32)
    write_points(path, None)
    with pytest.raises(UserError, match="No face was found"):
        align(path, detect=two_faces)


def test_one_of_several_is_chosen_and_the_others_are_told(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    assert align(path, face=1, detect=two_faces).points.equal(two_faces(torch.empty(0))[1].points)
    found, failed = align_all([path, tmp_path / "gone.png"], detect=two_faces)
    assert not found and "2 faces" in str(failed[path]) and "gone.png" in str(failed[tmp_path / "gone.png"])


def test_what_was_cut_goes_back_and_an_unchanged_face_changes_nothing(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    face = align(path, face=1, detect=two_faces).save(tmp_path / "faces")
    place = tmp_path / "faces" / "a.align.json"
    assert read_place(place) == (path.resolve(), align(path, face=1, detect=two_faces).square)
    same = paste_back(face, place, tmp_path / "same.png")
    assert torch.equal(read_images(same), read_images(path))
    edited = read_images(face)[0]
    edited[:, 30:60, 30:60] = 1.0
    changed = read_images(paste_back(save_image(edited, tmp_path / "e.png"), place, tmp_path / "changed.png"))
    differs = (changed - read_images(path)).abs().amax((0, 1)) > 0
    assert 700 < int(differs.sum()) < 3000
    moved = path.rename(tmp_path / "moved.png")
    assert paste_back(face, place, tmp_path / "again.png", picture=moved).is_file()


def test_pictures_of_one_name_are_all_kept(tmp_path: Path) -> None:
    paths = [photo(tmp_path / folder / "me.png", seed) for seed, folder in enumerate("abc")]
    found, _ = align_all(paths, face=0, detect=two_faces)
    saved = save_all(found, tmp_path / "out")
    assert [path.name for path in saved] == ["me.png", "me-2.png", "me-3.png"]
    assert [read_place(path.with_suffix(".align.json"))[0] for path in saved] == [path.resolve() for path in paths]


@pytest.mark.parametrize("text", ["", "[]", '{"picture": "a", "centre": [1], "right": [1, 2]}', "{"])
def test_a_file_that_does_not_say_where_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.align.json").write_text(text)
    with pytest.raises(UserError, match="does not say where"):
        read_place(tmp_path / "x.align.json")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return int(end.value.code or 0), streams.out, streams.err

    return run


def test_from_the_shell(command: Command, tmp_path: Path) -> None:
    path = photo(tmp_path / "photos" / "a.png")
    write_points(path, FACE)
    write_points(photo(tmp_path / "photos" / "b.png"), None)
    code, out, err = command("align", path, "--out", tmp_path / "faces", "--size", 64)
    assert code == 0, err
    face = tmp_path / "faces" / "a.png"
    assert out.strip() == str(face) and read_images(face).shape == (1, 3, 64, 64)
    code, out, _ = command("paste", face, tmp_path / "faces" / "a.align.json", "--output", tmp_path / "back.png")
    assert code == 0 and torch.equal(read_images(tmp_path / "back.png"), read_images(path))
    code, out, err = command("align", tmp_path / "photos", "--output", tmp_path / "more", "--points")
    assert code == 2 and "1 of 2 photos were not aligned" in err and "b.png" in err
    assert out.strip() == str(tmp_path / "more" / "a.png")  # the good one is there all the same
    assert read_points(path) is not None and json.loads((tmp_path / "photos" / "b.png.face.json").read_text()) == {
        "points": None
    }
    code, _, err = command("align", path, "--output", tmp_path / "more", "--face", 3)
    assert code == 2 and "no face 3" in err


def test_inversion_takes_the_aligned_faces(tmp_path: Path) -> None:
    from unified.cli.concepts import aligned_pictures

    for name in ("a.png", "b.png"):
        write_points(photo(tmp_path / name), FACE)
    given = aligned_pictures([str(tmp_path)], face=None, masks=None)
    square = align(tmp_path / "a.png", detect=none).image
    assert read_images(given.images, size=88).shape == (2, 3, 88, 88)
    assert torch.equal(read_images(given.images)[0], square)
    with pytest.raises(UserError, match="masks are of whole ones"):
        aligned_pictures([str(tmp_path)], face=None, masks=tmp_path)
