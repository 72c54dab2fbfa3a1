import random
from collections import Counter

import pytest

from unified.avatars import attributes as vocabulary
from unified.avatars.attributes import (
    ATTRIBUTES,
    HELD_OUT_HAIR,
    PERSON_ATTRIBUTES,
    SHADE_RANGE,
    VARYING_ATTRIBUTES,
    decode,
    draw_person,
    draw_varying,
    encode,
)
from unified.avatars.people import benchmark_people, train_people, validation_people


def test_every_attribute_is_the_persons_or_varies() -> None:
    assert sorted(PERSON_ATTRIBUTES + VARYING_ATTRIBUTES) == sorted(ATTRIBUTES)
    assert all(len(set(values)) == len(values) for values in ATTRIBUTES.values())
    assert set(HELD_OUT_HAIR) < set(ATTRIBUTES["hair"]) and len(HELD_OUT_HAIR) == 4


def test_encode_and_decode_are_inverse() -> None:
    rng = random.Random(0)
    for _ in range(50):
        row = {**draw_person(rng).attributes(), **draw_varying(rng)}
        assert decode(encode(row)) == {name: row[name] for name in ATTRIBUTES}
    assert encode({name: values[-1] for name, values in ATTRIBUTES.items()}) == [
        len(values) - 1 for values in ATTRIBUTES.values()
    ]


@pytest.mark.parametrize("table", ["CLOTHES_COLOURS", "BACKGROUND_COLOURS", "HAIR_COLOURS"])
def test_colours_of_one_attribute_are_far_apart(table: str) -> None:
    colours = [value for name, value in getattr(vocabulary, table).items() if name != "none"]
    numbers = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in colours]
    for index, first in enumerate(numbers):
        for second in numbers[:index]:
            assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 > 55


def test_draws_are_uniform_but_for_none() -> None:
    rng = random.Random(1)
    people = [draw_person(rng) for _ in range(6000)]
    pictures = [draw_varying(rng) for _ in range(6000)]
    assert not {person.hair for person in people} & set(HELD_OUT_HAIR)
    beards = Counter(person.facial_hair for person in people)
    assert 2800 < beards["none"] < 3200 and min(beards.values()) > 480
    glasses = Counter(picture["glasses"] for picture in pictures)
    assert 2800 < glasses["none"] < 3200
    for name in ("eyes", "mouth", "clothes", "clothes_colour", "background"):
        counts = Counter(picture[name] for picture in pictures)
        expected = 6000 / len(ATTRIBUTES[name])
        assert all(0.8 * expected < counts[value] < 1.2 * expected for value in ATTRIBUTES[name])


def test_hair_colour_is_none_only_where_no_hair_shows() -> None:
    rng = random.Random(2)
    for person in (draw_person(rng) for _ in range(5000)):
        no_hair = person.hair == "bald" and person.facial_hair == "none"
        assert (person.hair_colour == "none") == no_hair


def test_shades_stay_in_their_range_and_differ() -> None:
    rng = random.Random(3)
    shades = [draw_person(rng).shade.values() for _ in range(500)]
    for number in range(6):
        column = [shade[number] for shade in shades]
        width = SHADE_RANGE[number % 3]
        assert -width <= min(column) < -0.9 * width and 0.9 * width < max(column) <= width


def test_no_part_shares_a_person_with_another() -> None:
    held_out = {person.key() for person in benchmark_people()}
    validation = {person.key() for person in validation_people()}
    train = train_people()
    seen = {person.key() for person in train}
    assert len(held_out) == 30 and len(validation) == 500 and len(train) == 9000
    assert not held_out & seen and not validation & seen and not held_out & validation
    assert not {person.hair for person in train} & set(HELD_OUT_HAIR)


def test_benchmark_people_are_fixed_and_five_are_out_of_domain() -> None:
    people = benchmark_people()
    assert people == benchmark_people()
    assert [person.hair in HELD_OUT_HAIR for person in people] == [False] * 25 + [True] * 5
    assert {person.hair for person in people[25:]} == set(HELD_OUT_HAIR)


def test_people_depend_on_the_seed_and_on_nothing_else() -> None:
    assert train_people(40, seed=3) == train_people(40, seed=3)
    assert train_people(40, seed=3) != train_people(40, seed=4)
    assert train_people(60, seed=3)[:40] == train_people(40, seed=3)
