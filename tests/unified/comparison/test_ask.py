import pytest

from unified.avatars import benchmark, captions
from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.benchmark import Prompt
from unified.comparison.ask import default_prompts, neutral_text, read_asks, requests_in
from unified.errors import UserError


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("person", "a portrait of a person in a hat"),
        ("avatar", "a portrait of an avatar in a hat"),
        ("the person", "a portrait of the person in a hat"),
        ("", "a portrait of in a hat"),
    ],
)
def test_the_category_stands_where_the_name_was(category: str, expected: str) -> None:
    assert neutral_text("a portrait of <me> in a hat", name="<me>", category=category) == expected


def test_braces_and_the_name_mean_the_same() -> None:
    (braces,) = read_asks(["a portrait of {} wearing sunglasses"], name="<me>", category="person")
    (named,) = read_asks(["a portrait of <me> wearing sunglasses"], name="<me>", category="person")
    assert braces == named
    assert braces.requests == (("glasses", "sunglasses"),)


def test_a_prompt_of_the_benchmark_brings_its_request() -> None:
    prompt = Prompt("a photo of {} on the moon", "background", "grey", "background")
    (ask,) = read_asks([prompt], name="<you>", category="person")
    assert ask.text == "a photo of <you> on the moon"
    assert ask.requests == (("background", "grey"),)


@pytest.mark.parametrize("prompts", [[], ["a portrait of someone"], ["a {} b", "a <me> b"]])
def test_prompts_that_cannot_be_used_are_refused(prompts: list[str]) -> None:
    with pytest.raises(UserError):
        read_asks(prompts, name="<me>", category="person")


def test_every_prompt_of_the_benchmark_is_understood() -> None:
    for person in benchmark.load():
        for prompt in person.prompts:
            assert (prompt.attribute, prompt.value) in requests_in(prompt.text.replace("{}", "<me>"))


def test_every_plain_wording_is_understood() -> None:
    hidden = {("hair_colour", "none"), ("hair", "bald")}  # both are "with no hair"
    for attribute, values in ATTRIBUTES.items():
        for value in values:
            if attribute != "skin" and (attribute, value) not in hidden:
                found = requests_in(f"a portrait of <me> {captions.phrase(attribute, value)}")
                assert found == ((attribute, value),), captions.phrase(attribute, value)


def test_longer_wordings_win_and_colours_go_with_their_garment() -> None:
    assert dict(requests_in("<me> wearing a red hoodie, smiling")) == {
        "clothes": "hoodie",
        "clothes_colour": "red",
        "mouth": "smile",
    }
    assert dict(requests_in("<me> with a short beard")) == {"facial_hair": "short beard"}
    assert requests_in("<me> riding a horse") == ()


def test_default_prompts_are_one_of_each_kind() -> None:
    person = benchmark.load()[2]
    asks = read_asks(default_prompts(person), name="<me>", category="person")
    assert len(asks) == 6 and asks[0].requests == ()
    kinds = [p.kind for p in default_prompts(person) if not isinstance(p, str)]
    assert kinds == list(benchmark.KINDS)
    assert [len(ask.requests) for ask in read_asks(default_prompts(), name="<me>", category="person")] == [0] + 5 * [1]
