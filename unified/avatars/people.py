"""Who is in which part: people of the benchmark, of validation and of training never overlap.

Two parts never share a combination of person attributes, not even with another shade.
"""

from __future__ import annotations

import random

from unified.avatars.attributes import HELD_OUT_HAIR, Person, draw_person

BENCHMARK_PEOPLE = 30
OUT_OF_DOMAIN_PEOPLE = 5
VALIDATION_PEOPLE = 500
TRAIN_PEOPLE = 9000


def benchmark_people() -> list[Person]:
    """The 30 people of the benchmark, always the same; the last five have held-out hair styles."""
    rng = random.Random("avatars benchmark v1")
    people: list[Person] = []
    common = BENCHMARK_PEOPLE - OUT_OF_DOMAIN_PEOPLE
    while len(people) < common:
        person = draw_person(rng)
        # Different hair styles, so that the 25 look different.
        if person.hair not in {other.hair for other in people}:
            people.append(person)
    for index in range(OUT_OF_DOMAIN_PEOPLE):
        people.append(draw_person(rng, hair=(HELD_OUT_HAIR[index % len(HELD_OUT_HAIR)],)))
    return people


def validation_people(count: int = VALIDATION_PEOPLE, *, seed: int = 0) -> list[Person]:
    """People whose combinations of attributes are all different and none is the benchmark's."""
    taken = {person.key() for person in benchmark_people()}
    rng = random.Random(f"avatars validation v1 {seed}")
    people: list[Person] = []
    while len(people) < count:
        person = draw_person(rng)
        if person.key() not in taken:
            taken.add(person.key())
            people.append(person)
    return people


def train_people(count: int = TRAIN_PEOPLE, *, seed: int = 0, validation: int = VALIDATION_PEOPLE) -> list[Person]:
    """People of training; several may share a combination and differ in the shade alone."""
    taken = {person.key() for person in benchmark_people() + validation_people(validation, seed=seed)}
    rng = random.Random(f"avatars train v1 {seed}")
    people: list[Person] = []
    while len(people) < count:
        person = draw_person(rng)
        if person.key() not in taken:
            people.append(person)
    return people
