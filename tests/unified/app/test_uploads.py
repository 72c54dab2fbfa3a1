"""Bad uploads are named and the rest goes on; what people write is shown, never executed."""

import html as html_entities
import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from unified.app import html
from unified.app.job import Job, State
from unified.app.uploads import Bounds, read_uploads
from unified.errors import UserError
from unified.images import save_image

EVIL = "<img src=x onerror=alert(1)> & \"'</p><script>"


def picture(path: Path, *, size: tuple[int, int] = (30, 40)) -> Path:
    return save_image(torch.rand(3, *size), path)


def test_a_broken_picture_in_the_middle_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    good = [picture(tmp_path / name) for name in ("a.png", "z.jpg")]
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:-600])
    document = tmp_path / "really a.png"
    document.write_bytes(b"%PDF-1.7" + bytes(1000))
    found = read_uploads([good[0], broken, document, good[1]])
    assert list(found.pictures) == ["a.png", "z.jpg"]
    assert set(found.refused) == {"broken.png", "really a.png"}
    assert "truncated or damaged" in found.refused["broken.png"]
    assert "not a picture" in found.refused["really a.png"]
    assert not any(str(tmp_path) in reason for reason in found.refused.values())  # where files lie is nobody's business
    sizes = [Image.open(io.BytesIO(data)).size for data in found.files("inputs").values()]
    assert sizes == [(30, 30), (30, 30)] and list(found.files("inputs")) == ["inputs/00.png", "inputs/01.png"]


def test_size_pixels_and_count_are_bounded_before_anything_is_decoded(tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.write(picture(tmp_path / "small.png").read_bytes())
        file.truncate(200 * 2**20)
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(bomb)  # 64 million pixels in a few kilobytes
    found = read_uploads([huge, bomb])
    assert "200 MB" in found.refused["huge.png"] and "8000x8000" in found.refused["bomb.png"]
    with pytest.raises(UserError, match="at most 10"):
        read_uploads([huge] * 11)
    wide = picture(tmp_path / "wide.png", size=(1200, 1300))
    (kept,) = read_uploads([wide], Bounds()).pictures.values()
    assert Image.open(io.BytesIO(kept)).size == (1024, 1024)


def test_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    same = [picture(tmp_path / "me.png"), picture(tmp_path / "other" / "me.png")]
    found = read_uploads(same)
    assert list(found.pictures) == ["me.png", "me.png (2)"]
    assert found.pictures["me.png"] != found.pictures["me.png (2)"]


def test_markup_is_shown_as_it_was_written() -> None:
    job = Job("x", "me", "compare", EVIL, {}, state=State.RUNNING, lines=(EVIL,), error=EVIL, started=1.0)
    failed = job.changed(state=State.FAILED, result={"failed": {EVIL: EVIL}})
    pieces = [
        html.note(EVIL),
        html.problems({EVIL: EVIL}),
        html.thumbnails({EVIL: _png()}),
        html.before_after("", "", caption=EVIL),
        html.status(job),
        html.status(failed),
    ]
    for piece in pieces:
        assert "<script" not in piece and "<img src=x" not in piece
        assert EVIL in html_entities.unescape(piece)
        assert not re.search(r"=\"[^\"]*<", piece)  # nor does it leave an attribute


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "PNG")
    return stream.getvalue()
