import builtins
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unified.avatars import dataset, render
from unified.avatars.attributes import ATTRIBUTES, PERSON_ATTRIBUTES, Shade, draw_person, draw_varying, encode
from unified.errors import UserError

ROW = {
    "skin": "light",
    "hair": "short",
    "hair_colour": "black",
    "facial_hair": "none",
    "glasses": "none",
    "eyes": "open",
    "brows": "relaxed",
    "mouth": "neutral",
    "clothes": "t-shirt",
    "clothes_colour": "red",
    "background": "blue",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset.build(tmp_path_factory.mktemp("data") / "v1", people=30, validation=5, pictures=3, workers=2)


def colour(name: str) -> np.ndarray:
    return np.array([int(name[place : place + 2], 16) for place in (1, 3, 5)])


def test_render_shows_the_colours_asked_for() -> None:
    image, mask = render.render_with_mask(ROW)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and mask.dtype == np.bool_
    assert (image[0, 0] == colour("#3D79E0")).all() and not mask[0, 0]
    assert (image[61, 32] == colour("#D62828")).all() and mask[61, 32]  # the shirt
    assert (image[40, 23] == colour("#F0BE90")).all() and mask[40, 23]  # a cheek
    # The person fills the picture well, and outside of the mask there is background alone.
    assert 0.3 < mask.mean() < 0.6
    outside = np.abs(image[~mask].astype(int) - colour("#3D79E0")).sum(axis=1)
    assert (outside == 0).mean() > 0.9


def test_the_mask_does_not_depend_on_the_background() -> None:
    for background in ATTRIBUTES["background"]:
        assert (render.render_with_mask({**ROW, "background": background})[1] == MASK).all()


MASK = render.render_with_mask(ROW)[1]


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES])
def test_every_value_gives_another_picture(name: str) -> None:
    row = {**ROW, "facial_hair": "full beard"} if name == "hair_colour" else ROW
    pictures = {render.render({**row, name: value}).tobytes() for value in ATTRIBUTES[name]}
    assert len(pictures) == len(ATTRIBUTES[name])


@pytest.mark.parametrize("hair", [value for value in ATTRIBUTES["hair"] if value != "bald"])
def test_every_hair_style_takes_its_colour(hair: str) -> None:
    black = render.render({**ROW, "hair": hair}).astype(int)
    pink = render.render({**ROW, "hair": hair, "hair_colour": "pink"}).astype(int)
    assert (np.abs(black - pink).sum(axis=2) > 200).sum() > 25


@pytest.mark.parametrize("hair", ATTRIBUTES["hair"])
def test_every_hair_style_leaves_room_for_beard_and_glasses(hair: str) -> None:
    row = {**ROW, "hair": hair, "hair_colour": "pink"}
    plain = render.render(row).astype(int)
    for change in ({"facial_hair": "long beard"}, {"glasses": "sunglasses"}):
        assert (np.abs(render.render({**row, **change}).astype(int) - plain).sum(axis=2) > 60).sum() > 60


def test_the_shade_moves_skin_and_hair_a_little() -> None:
    plain = render.render(ROW).astype(int)
    moved = render.render(ROW, Shade(0.01, 0.05, 0.03, 0.01, 0.05, 0.03)).astype(int)
    change = np.abs(plain - moved).max(axis=2)
    assert 3 <= change[40, 23] <= 25 and 3 <= change[12, 32] <= 25
    assert change[0, 0] == 0 and change[61, 32] == 0


def test_shaded() -> None:
    assert render.shaded("#336699", (0.0, 0.0, 0.0)) == "#336699"
    assert render.shaded("#ff0000", (1 / 3, 0.0, 0.0)) == "#00ff00"
    assert render.shaded("#000000", (0.0, 0.0, 0.5)) == "#808080"


def test_unknown_or_missing_values() -> None:
    with pytest.raises(UserError, match="sunglasses"):
        render.render({**ROW, "glasses": "monocle"})
    with pytest.raises(UserError, match="'mouth' is None"):
        render.render({name: value for name, value in ROW.items() if name != "mouth"})


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "python_avatars":
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'unified\[zoo\]'"):
        render.render(ROW)


def test_build_and_load(tiny: Path) -> None:
    train, validation = dataset.load("train", folder=tiny), dataset.load("validation", folder=tiny)
    assert len(train) == 90 and len(validation) == 15
    assert train.images.shape == (90, 64, 64, 3) and train.images.dtype == np.uint8
    assert train.masks.shape == (90, 64, 64) and train.masks.dtype == np.bool_
    assert train.attributes.shape == (90, len(ATTRIBUTES)) and train.attributes.dtype == np.int64
    assert isinstance(train.images, np.memmap)
    assert train.person.tolist() == [number // 3 for number in range(90)]
    assert not [path for path in tiny.parent.iterdir() if path != tiny]  # nothing half done is left


def test_pictures_are_what_the_rows_say(tiny: Path) -> None:
    data = dataset.load("train", folder=tiny)
    for index in (0, 44, 89):
        shade = Shade(*(float(value) for value in data.shades[index]))
        image, mask = render.render_with_mask(data.row(index), shade)
        # The stored shade is single precision: a colour may round to its neighbour.
        assert np.abs(image.astype(int) - data.images[index]).max() <= 1
        assert (mask == data.masks[index]).all()
        assert encode(data.row(index)) == data.attributes[index].tolist()


def test_person_attributes_and_shade_stay_and_the_rest_varies(tiny: Path) -> None:
    data = dataset.load("train", folder=tiny)
    places = [list(ATTRIBUTES).index(name) for name in PERSON_ATTRIBUTES]
    of_person = data.attributes[:, places].reshape(30, 3, -1)
    assert (of_person == of_person[:, :1]).all()
    shades = data.shades.reshape(30, 3, 6)
    assert (shades == shades[:, :1]).all() and len(np.unique(shades[:, 0, 0])) == 30
    background = data.attributes[:, -1].reshape(30, 3)
    assert (background != background[:, :1]).any(axis=1).mean() > 0.8


def test_same_seed_same_bytes_whatever_the_workers(tiny: Path, tmp_path: Path) -> None:
    again = dataset.build(tmp_path / "again", people=30, validation=5, pictures=3, workers=1)
    for split in dataset.SPLITS:
        for name in dataset.FIELDS:
            path = f"{split}/{name}.npy"
            assert (tiny / path).read_bytes() == (again / path).read_bytes()
    other = dataset.build(tmp_path / "other", people=4, validation=2, pictures=1, workers=1, seed=1)
    images = dataset.load("train", folder=other).images
    assert not (images == dataset.load("train", folder=tiny).images[:12:3]).all()


def test_first_use_builds_into_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[Path] = []
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    real = dataset.build

    def small(folder: Path) -> Path:
        built.append(folder)
        return real(folder, people=2, validation=1, pictures=1, workers=1)

    monkeypatch.setattr(dataset, "build", small)
    assert len(dataset.load("train")) == 2 and len(dataset.load("validation")) == 1
    assert built == [tmp_path / "avatars" / "v1"]


def test_wrong_split_and_damaged_folder(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation"):
        dataset.load("test", folder=tiny)
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match="delete the folder"):
        dataset.load("train", folder=tmp_path)


def test_a_broken_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.build(tmp_path / "v1", people=2, validation=1, pictures=1, workers=1, progress=fail)
    assert not list(tmp_path.iterdir())


def test_progress_and_tensor(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    dataset.build(
        tmp_path / "v1",
        people=30,
        validation=2,
        pictures=1,
        workers=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(25, 32), (30, 32), (32, 32)]
    tensor = dataset.to_tensor(np.array([[[[0, 128, 255]]]], np.uint8))
    assert tensor.shape == (1, 3, 1, 1) and torch.equal(tensor.flatten(), torch.tensor([0, 128, 255]) / 255)


def test_random_rows_can_all_be_drawn() -> None:
    rng = random.Random(7)
    for _ in range(30):
        person = draw_person(rng)
        _, mask = render.render_with_mask({**person.attributes(), **draw_varying(rng)}, person.shade)
        assert 0.25 < mask.mean() < 0.85
