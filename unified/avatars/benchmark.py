"""avatarbench: 30 people that no embedded model has seen, with masks, attributes, captions and prompts.

The pictures are part of the package, so that loading needs no drawing packages: bench.json, and for each
person one sheet of the five pictures above their masks.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.avatars import attributes as vocabulary
from unified.avatars import people as parts
from unified.avatars.attributes import ATTRIBUTES, HELD_OUT_HAIR, draw_varying
from unified.avatars.captions import caption, phrase, sentence
from unified.avatars.dataset import to_tensor
from unified.errors import UserError
from unified.files import write_files

FOLDER = Path(__file__).parent / "bench"
SIZE = 64
PICTURES = 5
#: Kind of request -> the attributes that it changes.
KINDS = {
    "accessory": ("glasses",),
    "clothes": ("clothes", "clothes_colour"),
    "background": ("background",),
    "expression": ("mouth",),
    "hair": ("hair_colour",),
}
PROMPT_PREFIXES = ("a portrait of ", "a photo of ", "an avatar of ", "a picture of ", "")
VARYING_SHOWN = ("mouth", "clothes", "clothes_colour", "background")


@dataclass(frozen=True)
class Prompt:
    """A request. text: a sentence with {} for the concept's name; attribute, value: what it asks for.

    kind: accessory, clothes, background, expression or hair.
    """

    text: str
    attribute: str
    value: str
    kind: str


@dataclass(frozen=True)
class Person:
    """A concept of the benchmark.

    name: "person-01" and so on; images: [5,3,64,64] in 0..1; masks: bool [5,64,64], True for the person;
    attributes: of each picture; captions: of each picture; prompts: 25, 5 of each kind;
    out_of_domain: whether the hair style was kept out of all training.
    """

    name: str
    images: Tensor
    masks: Tensor
    attributes: tuple[dict[str, str], ...]
    captions: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    out_of_domain: bool


def load(folder: Path = FOLDER) -> list[Person]:
    """The 30 people. Raises UserError when a file is missing or damaged."""
    try:
        entries = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        return [_read_person(folder, entry) for entry in entries]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The benchmark in {folder} cannot be read ({error}); reinstall the package.") from error


def build(folder: Path = FOLDER) -> None:
    """Draw the benchmark into `folder`; always the same. Needs the drawing packages (extra "zoo")."""
    files: dict[str | PathLike[str], bytes] = {}
    entries = []
    for number, person in enumerate(parts.benchmark_people(), 1):
        rng = random.Random(f"avatars benchmark v1 {number}")
        name = f"person-{number:02d}"
        rows = [{**person.attributes(), **values} for values in pictures_of_a_person(rng)]
        files[folder / f"{name}.png"] = _sheet(rows, person.shade)
        entries.append(
            {
                "name": name,
                "attributes": rows,
                "captions": [caption(row, rng) for row in rows],
                "prompts": [vars(prompt) for prompt in prompts_for(rows, rng)],
                "out_of_domain": person.hair in HELD_OUT_HAIR,
            }
        )
    files[folder / "bench.json"] = (json.dumps(entries, indent=1) + "\n").encode()
    write_files(files)


def pictures_of_a_person(rng: random.Random) -> list[dict[str, str]]:
    """The varying attributes of five pictures: mouth, clothes, colours and background never the same twice.

    Glasses are the person's own (or none) in the first three pictures and in most of the others.
    """
    columns = {name: rng.sample(ATTRIBUTES[name], PICTURES) for name in VARYING_SHOWN}
    own = rng.choice(["none", "none", "round glasses", "square glasses"])
    rows = []
    for number in range(PICTURES):
        row = draw_varying(rng)
        row.update({name: values[number] for name, values in columns.items()})
        if number < 3 or rng.random() < 0.6:
            row["glasses"] = own
        rows.append(row)
    return rows


def prompts_for(rows: list[dict[str, str]], rng: random.Random) -> list[Prompt]:
    """25 requests, 5 of each kind, none for what is the person's own.

    rows: the attributes of the person's pictures. Values that no picture shows are asked for first. A kind
    with fewer values than prompts asks again in another sentence. Who is bald is asked for a hair style.
    """
    prompts = []
    for kind, attributes in KINDS.items():
        if kind == "clothes":  # two types and three colours
            chosen = _wishes("clothes", rows, rng)[:2] + _wishes("clothes_colour", rows, rng)[:3]
        elif kind == "hair" and rows[0]["hair"] == "bald":
            chosen = _wishes("hair", rows, rng)
        else:
            chosen = _wishes(attributes[0], rows, rng)
        for number, prefix in enumerate(PROMPT_PREFIXES):
            attribute, value = chosen[number % len(chosen)]
            clause = _wording(attribute, value, rng)
            prompts.append(Prompt(sentence([clause], prefix, subject="{}"), attribute, value, kind))
    return prompts


def _wishes(attribute: str, rows: list[dict[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """What can be asked for of an attribute, in random order, values that no picture shows first.

    Glasses and hair are the person's own as the first picture shows them; no hair is no request.
    """
    shown = {row[attribute] for row in rows}
    own = {rows[0][attribute]}
    if attribute == "hair_colour":
        own.add("none")
    if attribute == "hair":
        own |= {"bald", "balding", *HELD_OUT_HAIR}
    values = [value for value in rng.sample(ATTRIBUTES[attribute], len(ATTRIBUTES[attribute])) if value not in own]
    return [(attribute, value) for value in sorted(values, key=shown.__contains__)]


def _wording(attribute: str, value: str, rng: random.Random) -> str:
    # A colour is asked for with a garment half of the time, as captions do.
    if attribute == "clothes_colour" and rng.random() < 0.5:
        return phrase("clothes", rng.choice(ATTRIBUTES["clothes"]), colour=value)
    return phrase(attribute, value)


def _sheet(rows: list[dict[str, str]], shade: vocabulary.Shade) -> bytes:
    from unified.avatars.render import render_with_mask

    drawn = [render_with_mask(row, shade, size=SIZE) for row in rows]
    pictures = np.concatenate([image for image, _ in drawn], axis=1)
    masks = np.concatenate([np.repeat(mask[..., None] * np.uint8(255), 3, axis=2) for _, mask in drawn], axis=1)
    stream = io.BytesIO()
    Image.fromarray(np.concatenate([pictures, masks])).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _read_person(folder: Path, entry: dict[str, object]) -> Person:
    name, rows = entry["name"], entry["attributes"]
    captions, prompts = entry["captions"], entry["prompts"]
    assert isinstance(rows, list) and isinstance(captions, list) and isinstance(prompts, list)
    with Image.open(folder / f"{name}.png") as file:
        sheet = np.asarray(file.convert("RGB"))
    if sheet.shape != (2 * SIZE, PICTURES * SIZE, 3):
        raise ValueError(f"{name}.png has the shape {sheet.shape}")
    tiles = sheet.reshape(2, SIZE, PICTURES, SIZE, 3).transpose(0, 2, 1, 3, 4)
    return Person(
        name=str(name),
        images=to_tensor(tiles[0]),
        masks=torch.from_numpy(tiles[1, ..., 0] > 127),
        attributes=tuple(rows),
        captions=tuple(captions),
        prompts=tuple(Prompt(**prompt) for prompt in prompts),
        out_of_domain=bool(entry["out_of_domain"]),
    )
