import random
import re
from collections import Counter

import pytest

from unified.avatars import captions
from unified.avatars.attributes import ATTRIBUTES, HAIR_STYLES, draw_person, draw_varying
from unified.errors import UserError


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    styles = tuple(HAIR_STYLES)
    return [{**draw_person(rng, hair=styles).attributes(), **draw_varying(rng)} for _ in range(count)]


def test_every_word_is_in_the_vocabulary_and_captions_are_short() -> None:
    known, rng = set(captions.vocabulary()), random.Random(0)
    seen: set[str] = set()
    for row in rows(6000):
        words = captions.words(captions.caption(row, rng))
        assert 3 <= len(words) <= 36
        seen |= set(words)
    assert seen == known  # and nothing is in it that is never said


def test_phrases_are_in_the_vocabulary() -> None:
    known = set(captions.vocabulary())
    for name, values in ATTRIBUTES.items():
        phrases = [captions.phrase(name, value) for value in values]
        assert len(set(phrases)) == len(values)
        assert all(set(captions.words(phrase)) <= known for phrase in phrases)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("glasses", "sunglasses", "wearing sunglasses"),
        ("hair_colour", "blonde", "with blonde hair"),
        ("mouth", "smile", "smiling"),
        ("background", "green", "on a green background"),
        ("clothes", "hoodie", "wearing a hoodie"),
        ("clothes_colour", "red", "wearing red clothes"),
        ("hair", "afro", "with an afro"),
        ("skin", "dark brown", "with dark brown skin"),
    ],
)
def test_phrase(attribute: str, value: str, expected: str) -> None:
    assert captions.phrase(attribute, value) == expected


def test_phrase_with_a_colour() -> None:
    assert captions.phrase("clothes", "hoodie", colour="red") == "wearing a red hoodie"
    assert captions.phrase("clothes", "hoodie", colour="orange") == "wearing an orange hoodie"
    assert captions.phrase("hair", "afro", colour="white") == "with a white afro"


def test_unknown_value_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="sunglasses"):
        captions.phrase("glasses", "monocle")
    with pytest.raises(UserError, match="background"):
        captions.phrase("weather", "rain")


def any_of(name: str) -> str:
    return "|".join(sorted(ATTRIBUTES[name], key=len, reverse=True))


def test_a_caption_says_only_what_is_true() -> None:
    rng = random.Random(1)
    patterns = {
        "glasses": r"(round glasses|square glasses|sunglasses)",
        "background": rf"({any_of('background')}) background",
        "clothes_colour": rf"({any_of('clothes_colour')}) (?:clothes|hoodie|t-shirt|sweater|blazer|v-neck)",
        "skin": rf"({any_of('skin')}) skin",
        "facial_hair": r"(short|full|long|handlebar)(?: [a-z]+)? (?:beard|moustache)",
        "eyes": r"(closed|happy|wide|heart|open) eyes",
    }
    found: Counter[str] = Counter()
    for row in rows(2000, seed=1):
        text = captions.caption(row, rng)
        for name, pattern in patterns.items():
            for said in re.findall(pattern, text):
                words = row[name].split()
                assert said == row[name] or (name == "facial_hair" and said == words[0]), text
                found[name] += 1
    assert all(found[name] > 250 for name in patterns)


def test_shares_said() -> None:
    rng, said, data = random.Random(2), Counter[str](), rows(3000, seed=2)
    sunglasses_eyes = 0
    for row in data:
        text = captions.caption(row, rng)
        said["background"] += "background" in text
        said["skin"] += "skin" in text
        said["brows"] += "eyebrow" in text
        said["prefix"] += not text.startswith("a person")
        sunglasses_eyes += row["glasses"] == "sunglasses" and ("eyes" in text or "winking" in text)
    assert 0.70 < said["background"] / 3000 < 0.85
    assert 0.38 < said["skin"] / 3000 < 0.58
    assert 0.20 < said["brows"] / 3000 < 0.40
    assert 0.75 < said["prefix"] / 3000 < 0.85
    assert sunglasses_eyes <= 3000 * 0.02  # only as open eyes, which are hardly ever said


def test_partial_requests_occur() -> None:
    rng = random.Random(3)
    texts = [captions.caption(row, rng) for row in rows(4000, seed=3)]
    assert "a person wearing sunglasses" in {text.removeprefix("a photo of ") for text in texts}


def test_same_state_same_words_and_other_order() -> None:
    row = rows(1)[0]
    assert captions.caption(row, random.Random(5)) == captions.caption(row, random.Random(5))
    assert len({captions.caption(row, random.Random(seed)) for seed in range(20)}) > 15


def test_sentence_joins_neighbours_of_one_kind() -> None:
    clauses = ["with short hair", "with a beard", "wearing glasses", "wearing a hoodie", "smiling"]
    assert captions.sentence(clauses, "a photo of ", subject="{}") == (
        "a photo of {} with short hair and a beard, wearing glasses and a hoodie, smiling"
    )


def test_colour_of_a_bald_persons_beard() -> None:
    row = {"hair": "bald", "hair_colour": "red", "facial_hair": "full beard"}
    assert captions.clauses_of(row) == ["with a bald head", "with a full red beard"]
    row = {"hair": "short", "hair_colour": "red", "facial_hair": "full beard"}
    assert captions.clauses_of(row) == ["with short red hair", "with a full beard"]
