"""Pictures in and out: every kind of input, every refusal, exact round trips."""

import errno
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from unified import images as subject
from unified.errors import UserError
from unified.images import grid, pictures_in, read_images, save_image, save_images, to_numpy, to_pil

RGB = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=24).map(lambda s: (*s, 3)))


def noise(height: int = 12, width: int = 16, channels: int = 3, *, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)[None]


def png_header(width: int, height: int) -> bytes:
    """A valid PNG of the given size in its header, with next to no data behind."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


# --- what is accepted


def test_the_same_picture_in_every_form(tmp_path: Path) -> None:
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = as_tensor(pixels)
    forms: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        tmp_path,
        Image.fromarray(pixels),
        pixels,
        pixels[None],
        pixels.astype(np.float32) / 255,
        pixels.astype(np.float64) / 255,
        (pixels.astype(np.uint16) * 257),
        torch.from_numpy(pixels).permute(2, 0, 1),
        expected,
        expected[0],
        [tmp_path / "a.png"],
        (pixels,),
    ]
    for form in forms:
        found = read_images(form)
        assert found.dtype == torch.float32 and found.shape == (1, 3, 12, 16)
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_list_keeps_the_order_and_mixes_kinds(tmp_path: Path) -> None:
    a, b, c = noise(seed=1), noise(seed=2), noise(seed=3)
    Image.fromarray(a).save(tmp_path / "a.png")
    found = read_images([tmp_path / "a.png", Image.fromarray(b), torch.cat([as_tensor(c), as_tensor(a)])])
    assert torch.equal(found, torch.cat([as_tensor(x) for x in (a, b, c, a)]))


def test_folder_in_order_of_names_without_others(tmp_path: Path) -> None:
    for name, seed in (("b.png", 2), ("a.PNG", 1), ("c.bmp", 3)):
        Image.fromarray(noise(seed=seed)).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"not a picture")
    (tmp_path / "inner").mkdir()
    assert torch.equal(read_images(tmp_path), torch.cat([as_tensor(noise(seed=s)) for s in (1, 2, 3)]))
    assert [path.name for path in pictures_in(tmp_path)] == ["a.PNG", "b.png", "c.bmp"]


def test_greyscale_is_repeated(tmp_path: Path) -> None:
    pixels = noise(channels=1)
    expected = as_tensor(np.repeat(pixels, 3, axis=2))
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    for form in (tmp_path / "grey.png", pixels, pixels[:, :, 0], torch.from_numpy(pixels).permute(2, 0, 1)):
        assert torch.equal(read_images(form), expected)
    assert torch.equal(read_images(pixels[:, :, 0] > 127), (expected > 0.5).float())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_on_white(tmp_path: Path, mode: str) -> None:
    pixels = noise(channels=4)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.png")
    straight = np.asarray(image.convert("RGBA")).astype(np.float64) / 255
    expected = straight[:, :, :3] * straight[:, :, 3:] + 1 - straight[:, :, 3:]
    for form in (tmp_path / "a.png", image):
        found = read_images(form)[0].permute(1, 2, 0).double().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_transparency_of_arrays_and_tensors() -> None:
    pixels = noise(channels=4)
    pixels[0, 0] = (10, 20, 30, 0)
    pixels[0, 1] = (10, 20, 30, 255)
    first, second = read_images(pixels), read_images(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    torch.testing.assert_close(first, second)
    assert first[0, :, 0, 0].tolist() == [1, 1, 1]
    torch.testing.assert_close(first[0, :, 0, 1] * 255, torch.tensor([10.0, 20, 30]))


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 750)
    image.paste(0, (0, 0, 8, 16))
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = read_images(tmp_path / "opaque.png")[0], read_images(tmp_path / "clear.png")[0]
    assert opaque[:, 0, 0].tolist() == [1, 0, 0] and opaque[:, 0, 15].tolist() == [0, 0, 1]
    assert clear[:, 0, 0].tolist() == [1, 0, 0] and clear[:, 0, 15].tolist() == [1, 1, 1]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    assert read_images(tmp_path / "red.tiff")[0, :, 5, 5].tolist() == [1, 0, 0]
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = read_images(tmp_path / "red.jpg")[0, :, 5, 5].tolist()
    assert red > 0.95 and green < 0.05 and blue < 0.05


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_keep_their_precision(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (10, 12), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = read_images(tmp_path / f"a.{suffix}")
    expected = torch.from_numpy(values.astype(np.float32) / 65535).expand(1, 3, 10, 12)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_exif_rotation_is_carried_out(tmp_path: Path) -> None:
    pixels = noise(12, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_images(tmp_path / "turned.png"), as_tensor(np.rot90(pixels, -1).copy()))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.gif", "a.webp"):
        found = read_images(tmp_path / name)
        assert found.shape == (1, 3, 16, 16) and found[0, :, 3, 3].tolist() == [1, 0, 0]


def test_result_is_independent_of_the_input() -> None:
    pixels, tensor = noise(), as_tensor(noise())
    from_array, from_tensor = read_images(pixels), read_images(tensor)
    pixels[:], tensor[:] = 0, 0
    assert from_array.mean() > 0.3 and from_tensor.mean() > 0.3


# --- size=


def test_square_cut_then_exact_average() -> None:
    """Halving averages 2x2 blocks of the central square."""
    pixels = noise(32, 48)
    found = read_images(pixels, size=16)
    central = pixels[:, 8:40].astype(np.float64) / 255
    expected = central.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_size_makes_different_pictures_one_tensor() -> None:
    found = read_images([noise(20, 30), noise(9, 9), noise(64, 8)], size=16)
    assert found.shape == (3, 3, 16, 16)
    assert found.min() >= 0 and found.max() <= 1


def test_size_of_the_picture_changes_nothing() -> None:
    pixels = noise(16, 16)
    assert torch.equal(read_images(pixels, size=16), as_tensor(pixels))


@pytest.mark.parametrize("size", [0, 7, 20000])
def test_senseless_size_is_refused(size: int) -> None:
    with pytest.raises(UserError, match="pixels"):
        read_images(noise(), size=size)


# --- what is refused


@pytest.mark.parametrize(
    "content", [b"%PDF-1.7\n%...", b"just text", b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png is not a picture"):
        read_images(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"truncated or damaged|is not a picture"):
        read_images(file)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("damaged") / f"a.{data.draw(st.sampled_from(['png', 'jpg', 'gif', 'tiff']))}"
    Image.fromarray(noise(10, 10)).save(file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content))
    try:
        found = read_images(file, size=10)
    except UserError:
        return
    assert found.shape == (1, 3, 10, 10) and found.min() >= 0 and found.max() <= 1


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none\.png"):
        read_images(tmp_path / "none.png")
    with pytest.raises(UserError, match="holds no picture"):
        read_images(tmp_path)
    with pytest.raises(UserError, match="no picture was given"):
        read_images([])
    if hasattr(os, "mkfifo"):  # must not wait for a writer
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="is not a file"):
            read_images(tmp_path / "pipe")


def test_too_small(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    for form in (
        tmp_path / "a.png",
        Image.new("RGB", (1, 1)),
        noise(1, 1),
        torch.zeros(3, 1, 1),
        noise(7, 100),
    ):
        with pytest.raises(UserError, match="at least 8"):
            read_images(form)


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (8193, 8), (9000, 9000)])
def test_too_large_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    tracemalloc.start()
    with pytest.raises(UserError, match="at most 8192"):
        read_images(tmp_path / "a.png", size=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_different_sizes_name_both() -> None:
    with pytest.raises(UserError, match=r"16x12.*picture 2 has 20x12"):
        read_images([noise(12, 16), noise(12, 20)])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((8, 8, 3), -1.0), r"\(x \+ 1\) / 2"),
        (np.full((8, 8, 3), 255.0), "divide"),
        (np.full((8, 8, 3), np.nan), "expected 0..1"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.zeros((3, 8, 8)), "channels come last"),
        (np.zeros((8,)), "expected"),
    ],
)
def test_arrays_out_of_range_or_shape(values: np.ndarray[Any, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        read_images(values)


def test_tensors_of_wrong_shape_and_other_things() -> None:
    with pytest.raises(UserError, match="channels last"):
        read_images(torch.zeros(8, 8, 3))
    for thing in (3, None, b"bytes", object()):
        with pytest.raises(UserError, match="expected a path"):
            read_images(thing)  # type: ignore[arg-type]


# --- out


@settings(deadline=None, max_examples=50)
@given(pixels=RGB)
def test_bytes_survive_the_tensor(pixels: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(to_numpy(read_images(pixels))[0], pixels)
    assert np.array_equal(np.asarray(to_pil(read_images(pixels))[0]), pixels)


@settings(deadline=None, max_examples=25)
@given(pixels=RGB)
def test_bytes_survive_a_png(pixels: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = save_image(read_images(pixels), tmp_path_factory.mktemp("out") / "a.png")
    assert np.array_equal(to_numpy(read_images(path))[0], pixels)


def test_values_are_rounded_and_clamped() -> None:
    image = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.51 / 255, 1.0, 9.0]).expand(3, 8, 6)
    assert to_numpy(image)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]
    with pytest.raises(UserError, match="finite"):
        to_numpy(torch.full((1, 3, 8, 8), float("nan")))
    with pytest.raises(UserError, match="expected"):
        to_numpy(torch.zeros(8, 8))


def test_save_many_and_read_the_folder(tmp_path: Path) -> None:
    images = torch.stack([as_tensor(noise(seed=s))[0] for s in range(3)])
    paths = save_images(images, tmp_path / "new" / "folder", stem="me")
    assert [path.name for path in paths] == ["me-000.png", "me-001.png", "me-002.png"]
    torch.testing.assert_close(read_images(tmp_path / "new" / "folder"), images)


def test_unknown_suffix_writes_nothing(tmp_path: Path) -> None:
    for name in ("a", "a.txt", "a.pdf"):
        with pytest.raises(UserError, match="suffix"):
            save_image(torch.zeros(3, 8, 8), tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="save_images"):
        save_image(torch.zeros(2, 3, 8, 8), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "read-only")],
)
def test_failed_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    """The system refuses at the end of the second of two files: nothing is new, nothing is left over."""
    (tmp_path / "image-000.png").write_bytes(b"old")
    calls = []

    def refuse(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("unified.files.os.fsync", refuse)
    with pytest.raises(UserError, match=text):
        save_images(torch.zeros(2, 3, 8, 8), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["image-000.png"]
    assert (tmp_path / "image-000.png").read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_told(tmp_path: Path) -> None:
    from unified.files import explain

    try:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        assert "disk is full" in explain(error, tmp_path / "a.png")


def test_folder_in_the_way_and_file_in_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        save_image(torch.zeros(3, 8, 8), tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        save_image(torch.zeros(3, 8, 8), tmp_path / "file" / "b.png")


def test_grid_places_pictures_in_reading_order() -> None:
    images = torch.arange(5).view(5, 1, 1, 1).expand(5, 3, 4, 6) / 10
    sheet = grid(images, columns=3, gap=2, background=1.0)
    assert sheet.shape == (3, 4 * 2 + 2, 6 * 3 + 2 * 2)
    for i in range(5):
        top, left = (i // 3) * 6, (i % 3) * 8
        assert torch.equal(sheet[:, top : top + 4, left : left + 6], images[i])
    assert (sheet[:, 4:6] == 1).all() and (sheet[:, 6:, 16:] == 1).all()
    assert grid(images).shape == grid(images, columns=3).shape
    assert grid(images, columns=9).shape[2] == 5 * 8 - 2
    for bad, columns in ((images[:0], None), (images[0], None), (images, -1)):
        with pytest.raises(UserError):
            grid(bad, columns=columns)


def test_limits_are_stated() -> None:
    assert str(subject.SMALLEST_SIDE) == "8" and subject.LARGEST_SIDE < 20000


def test_broken_pictures_are_told_from_those_that_can_be_read(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "3.png", "4.png"]
    for name in names:
        save_image(torch.rand(3, 9, 9), tmp_path / name)
    (tmp_path / "2.png").write_bytes(b"%PDF-1.7" + bytes(99))
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes()[:-40])
    found, refused = subject.readable_pictures([tmp_path, tmp_path / "none.png"])
    assert [path.name for path in found] == ["1.png", "4.png"]
    assert [path.name for path in refused] == ["2.png", "3.png", "none.png"]
    assert all(str(path) in reason for path, reason in refused.items())
