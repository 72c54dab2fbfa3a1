import builtins
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from unified.avatars import benchmark
from unified.avatars.attributes import ATTRIBUTES, HELD_OUT_HAIR, PERSON_ATTRIBUTES
from unified.avatars.captions import vocabulary, words
from unified.avatars.people import benchmark_people
from unified.errors import UserError


@pytest.fixture(scope="module")
def people() -> list[benchmark.Person]:
    return benchmark.load()


def test_thirty_people_with_five_pictures(people: list[benchmark.Person]) -> None:
    assert [person.name for person in people] == [f"person-{number:02d}" for number in range(1, 31)]
    for person in people:
        assert person.images.shape == (5, 3, 64, 64) and person.images.dtype == torch.float32
        assert person.images.min() >= 0 and 0.5 < person.images.max() <= 1
        assert person.masks.shape == (5, 64, 64) and person.masks.dtype == torch.bool
        assert len(person.attributes) == len(person.captions) == 5
    assert [person.out_of_domain for person in people] == [False] * 25 + [True] * 5


def test_they_are_the_held_out_people(people: list[benchmark.Person]) -> None:
    for person, held_out in zip(people, benchmark_people(), strict=True):
        for row in person.attributes:
            assert {name: row[name] for name in PERSON_ATTRIBUTES} == held_out.attributes()
        assert person.out_of_domain == (held_out.hair in HELD_OUT_HAIR)


def test_pictures_of_a_person_differ_in_all_that_is_asked_for(people: list[benchmark.Person]) -> None:
    for person in people:
        for name in ("mouth", "clothes", "clothes_colour", "background"):
            assert len({row[name] for row in person.attributes}) == 5
        assert len({row["glasses"] for row in person.attributes[:3]}) == 1


def test_masks_are_the_persons_and_stay_alike(people: list[benchmark.Person]) -> None:
    for person in people:
        assert all(0.25 < float(mask.float().mean()) < 0.9 for mask in person.masks)
        union, common = person.masks.any(dim=0).sum(), person.masks.all(dim=0).sum()
        assert common / union > 0.85  # only clothes move the outline
        # Where no one is in any corner, the corner shows the colour of the background alone.
        for image, mask in zip(person.images, person.masks, strict=True):
            outside = image[:, ~mask]
            ground = outside.mode(dim=1).values
            assert ((outside - ground[:, None]).abs().sum(dim=0) < 0.02).float().mean() > 0.8


def test_prompts_ask_for_what_the_person_does_not_have(people: list[benchmark.Person]) -> None:
    known = set(vocabulary()) | {"<me>"}
    for person in people:
        assert Counter(prompt.kind for prompt in person.prompts) == dict.fromkeys(benchmark.KINDS, 5)
        assert len({prompt.text for prompt in person.prompts}) == 25
        for prompt in person.prompts:
            assert prompt.text.count("{}") == 1
            assert prompt.value in ATTRIBUTES[prompt.attribute]
            assert prompt.value != person.attributes[0][prompt.attribute]
            assert set(words(prompt.text.format("<me>"))) <= known
            if prompt.attribute == "clothes_colour":
                assert f" {prompt.value} " in prompt.text
                assert prompt.value not in {row["clothes_colour"] for row in person.attributes}


def test_bald_people_are_not_asked_for_a_hair_colour(people: list[benchmark.Person]) -> None:
    bald = [person for person in people if person.attributes[0]["hair"] == "bald"]
    assert bald
    for person in people:
        asked = {prompt.attribute for prompt in person.prompts if prompt.kind == "hair"}
        assert asked == ({"hair"} if person in bald else {"hair_colour"})


def test_the_package_holds_what_build_draws(tmp_path: Path) -> None:
    benchmark.build(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(path.name for path in benchmark.FOLDER.iterdir())
    assert (tmp_path / "bench.json").read_bytes() == (benchmark.FOLDER / "bench.json").read_bytes()
    for drawn, stored in zip(benchmark.load(tmp_path), benchmark.load(), strict=True):
        assert torch.equal(drawn.images, stored.images) and torch.equal(drawn.masks, stored.masks)
    assert sum(path.stat().st_size for path in benchmark.FOLDER.iterdir()) < 1_000_000


def test_loading_needs_no_drawing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name in ("python_avatars", "resvg_py"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(benchmark.load()) == 30


def test_a_damaged_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reinstall"):
        benchmark.load(tmp_path)
    (tmp_path / "bench.json").write_text("[{}]")
    with pytest.raises(UserError, match="reinstall"):
        benchmark.load(tmp_path)
