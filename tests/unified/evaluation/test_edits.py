"""Edits of held-out people: what is counted, on pictures that say their own attributes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.stylegan.backbone import StyleGAN
from editing.direction_file import save_directions, user_file
from editing.directions import Direction, Directions
from tests.editing.conftest import WIDTH, Telling, styled, units
from tests.tiny import gan
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.directions_hook import ValueEdit
from unified.errors import UserError
from unified.evaluation import edits
from unified.evaluation.avatarbench import Judges
from unified.evaluation.edits import EditScore

VOCABULARY = {
    "glasses": ("none", "round glasses", "sunglasses"),
    "eyes": ("open", "closed"),
    "mouth": ("neutral", "smile"),
    "skin": ("pale", "light"),
}


class Written:
    """Reads the attributes that the first pixels of a picture hold as numbers."""

    vocabulary = VOCABULARY

    def names(self, images: Tensor) -> list[dict[str, str]]:
        rows = (10 * images[:, 0, 0, : len(VOCABULARY)]).round().long().tolist()
        return [{n: v[i] for (n, v), i in zip(VOCABULARY.items(), row, strict=True)} for row in rows]


def picture(*values: int) -> Tensor:
    drawn = torch.full((3, 8, 8), 0.5)
    drawn[0, 0, : len(values)] = torch.tensor(values) / 10
    return drawn


def same_person(images: Tensor) -> Tensor:
    """Everyone is the same."""
    return torch.ones(len(images), 1)


JUDGES = Judges(same_person, Written())  # type: ignore[arg-type]
SMILE = ValueEdit("by hand", "mouth=smile", "smile", 1.0)


def test_what_is_counted() -> None:
    """Four people: one changes and keeps all, one loses one of three, one stays, one smiled already."""
    before = torch.stack([picture(0, 0, 0, 0), picture(0, 0, 0, 0), picture(1, 1, 0, 1), picture(0, 0, 1, 0)])
    after = torch.stack([picture(0, 0, 1, 0), picture(1, 0, 1, 0), picture(1, 1, 0, 1), picture(1, 1, 1, 1)])
    found = edits.judge_edit(before, after, before, ["a", "b", "c", "d"], SMILE, JUDGES)
    assert [(s.person, s.changed, round(s.kept, 3)) for s in found] == [("a", 1, 1), ("b", 1, 0.667), ("c", 0, 1)]
    assert all(s.identity == s.identity_before == 1 for s in found)


def test_who_shows_the_value_in_the_original_or_the_inversion_is_left_out() -> None:
    plain, smiling = picture(0, 0, 0, 0)[None], picture(0, 0, 1, 0)[None]
    assert edits.judge_edit(smiling, smiling, plain, ["a"], SMILE, JUDGES) == []
    assert edits.judge_edit(plain, smiling, smiling, ["a"], SMILE, JUDGES) == []


def test_eyes_behind_dark_lenses_do_not_count() -> None:
    before, after = picture(0, 0, 0, 0)[None], picture(2, 1, 0, 0)[None]
    wish = ValueEdit("by hand", "glasses=sunglasses", "sunglasses", 1.0)
    (found,) = edits.judge_edit(before, after, before, ["a"], wish, JUDGES)
    assert found.changed == 1 and found.kept == 1


def test_means_are_over_people() -> None:
    """One person with two edits and one with one: (mean(1, 0) + 1) / 2."""
    scores = [
        EditScore("a", "m", "mouth=smile", 1, 1, 1, 1),
        EditScore("a", "m", "mouth=neutral", 0, 1, 1, 1),
        EditScore("b", "m", "mouth=smile", 1, 0.5, 1, 1),
    ]
    (found,) = edits.summarise(scores)
    assert (found.method, found.target, found.edits, found.people) == ("m", "mouth", 3, 2)
    assert found.scores["changed"].score.value == 0.75 and found.scores["kept"].score.value == 0.75
    assert [s.target for s in edits.summarise(scores, each=True)] == ["mouth=smile", "mouth=neutral"]
    (result,) = edits.results("run", [found])
    assert result.scores["mouth changed"].score.value == 0.75 and result.run == "run m"


def test_wishes() -> None:
    found = edits.wanted_values(["glasses", "mouth=smile"], VOCABULARY)
    assert list(found) == ["glasses=none", "glasses=round glasses", "glasses=sunglasses", "mouth=smile"]
    assert found["glasses=sunglasses"] == "a person wearing sunglasses"
    with pytest.raises(UserError, match=r"mouth=frown.*neutral, smile"):
        edits.wanted_values(["mouth=frown"], VOCABULARY)


def test_an_edit_is_composed_with_the_opposite_of_the_value_shown() -> None:
    pink = ValueEdit("m", "hair=pink", "m:pink", 5.0)
    black = ValueEdit("m", "hair=black", "m:black", 4.0)
    found = edits.wishes(pink, ["hair=black", "hair=red", "hair=black"], {"hair=black": black})
    assert found == {"hair=black": {"m:pink": 5.0, "m:black": -4.0}, "hair=red": {"m:pink": 5.0}}
    both_ways = ValueEdit("m", "hair=black", "m:pink", -5.0)  # one component, followed backwards
    assert edits.wishes(pink, ["hair=black"], {"hair=black": both_ways}) == {"hair=black": {"m:pink": 10.0}}


def test_concepts_whose_codes_are_per_picture_are_edited_together() -> None:
    backbone = gan.stylegan()
    people = [styled(backbone, 1, space="w+").renamed(name) for name in ("<a>", "<b>")]
    ((joined, places),) = edits.together(people)
    assert places == [0, 1] and joined.pictures == 2
    assert torch.equal(joined.codes[0].pick([1]).tensors["w"], people[1].codes[0].tensors["w"])
    tuned = [styled(backbone, 1, extra=True) for _ in range(2)]
    assert [places for _, places in edits.together(tuned)] == [[0], [1]]


def test_codes_together_are_the_inverse_of_picking() -> None:
    code = Code("x", {"a": torch.randn(4, 2)}, per_picture=True, meta={"pictures": [1, 2, 3, 4]})
    again = Code.together([code.pick([0, 1]), code.pick([2]), code.pick([3])])
    assert torch.equal(again.tensors["a"], code.tensors["a"]) and again.meta == code.meta


class Reads:
    """ "glow=on" is a positive first coordinate along `a`, as the generator writes it."""

    vocabulary = {"glow": ("off", "on"), "tint": ("off", "on")}

    def __init__(self, a: Tensor, b: Tensor, mean: Tensor) -> None:
        self.normals, self.mean = (a, b), mean

    def names(self, images: Tensor) -> list[dict[str, str]]:
        w = torch.logit(images.flatten(1)[:, :WIDTH].double()).float() - self.mean
        signs = [(w @ normal > 0).tolist() for normal in self.normals]
        return [{"glow": ("off", "on")[g], "tint": ("off", "on")[t]} for g, t in zip(*signs, strict=True)]


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StyleGAN:
    """A generator whose pictures tell w, with directions of known strength in a file."""
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, _ = units(2)
    item = Direction(a, 1.0, strength=5.0)
    known = Directions({"glow=on": item}, backbone.id, backbone.fingerprint, "test", method="centres")
    save_directions(known, user_file(backbone.fingerprint, "centres"))
    return backbone


def test_an_edit_is_made_and_judged_end_to_end(telling: StyleGAN) -> None:
    """Along a direction with its stored strength everyone glows; followed by nothing, nobody does."""
    a, b = units(2)
    mean, _ = telling.style_statistics()
    rest = torch.nn.functional.normalize(b - (a @ b) * a, dim=0)
    w = mean - a + torch.linspace(-1, 1, 3).unsqueeze(1) * rest
    people = [Concept([Code("w", {"w": row[None]}, per_picture=True)], name=f"<{i}>") for i, row in enumerate(w)]
    originals = telling.generate(people[0], output="pt").repeat(3, 1, 1, 1)
    judges = Judges(lambda images: torch.ones(len(images), 1), Reads(a, rest, mean))  # type: ignore[arg-type]
    (edit,) = edits.chosen_edits(telling, ["glow=on"], judges.attributes.vocabulary)
    assert edit == ValueEdit("centres", "glow=on", "centres:glow=on", 5.0)
    found = edits.evaluate_edits(telling, people, originals, [edit], judges)
    assert [(s.changed, s.kept) for s in found] == [(1, 1), (1, 1), (1, 1)]
    # A tenth of the strength is not enough: alone nobody glows; as the first of two, the second is taken.
    for multiples, changed in (((0.1,), 0), ((0.1, 1.0), 3)):
        tried = edits.evaluate_edits(telling, people, originals, [edit], judges, multiples=multiples)
        assert sum(s.changed for s in tried) == changed
    (weak,) = edits.chosen_edits(telling, ["glow=on"], judges.attributes.vocabulary, strength=0.0)
    assert sum(s.changed for s in edits.evaluate_edits(telling, people, originals, [weak], judges)) == 0
    with pytest.raises(UserError, match="by sefa; it has some by centres"):
        edits.chosen_edits(telling, ["glow=on"], judges.attributes.vocabulary, methods=["sefa"])
