"""What runs is derived: it follows the registries, and nothing registered is forgotten."""

import shlex

import pytest

from unified.catalog import status
from unified.catalog.entries import Link, Status, entries, entry
from unified.catalog.status import dangling_rows, listed, missing_rows
from unified.contract.backbone import backbones
from unified.contract.method import methods
from unified.contract.recipe import Stage, recipes, refusal
from unified.contract.space import parse_spaces, spaces
from unified.zoo.registry import zoo


def test_everything_registered_is_in_the_catalog() -> None:
    missing = missing_rows()
    assert not missing, "\n".join(missing)


def test_the_catalog_names_nothing_that_does_not_exist() -> None:
    dangling = dangling_rows(frozenset(each.id for each in entries()))
    assert not dangling, "\n".join(dangling)


def test_a_recipe_that_is_gone_no_longer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(entry("image2stylegan")).status is Status.RUNS
    monkeypatch.delitem(recipes._items, "image2stylegan")
    assert listed(entry("image2stylegan")).status is Status.EXPRESSIBLE  # W+ by optimising is still there
    assert any("'image2stylegan'" in line for line in dangling_rows(frozenset({"image2stylegan"})))


def test_a_recipe_without_a_row_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes._items, "brand-new", recipes.get("pti"))
    assert [line for line in missing_rows() if "'brand-new'" in line and "recipe<TAB>brand-new<TAB>" in line]


def test_expressible_follows_spaces_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey's optimised words need the space of words; without it they are not expressible."""
    celebrity = next(
        e
        for e in entries()
        if e.space == "Textual (Word)" and e.method == "Optimization-based" and listed(e).status is not Status.RUNS
    )
    assert listed(celebrity).status is Status.EXPRESSIBLE
    status._names.cache_clear()
    monkeypatch.delitem(spaces._items, "word")
    try:
        assert listed(celebrity).status is Status.NOT_YET
    finally:
        status._names.cache_clear()


def test_what_the_contract_refuses_is_not_expressible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start noise cannot be had from an encoder that there is none of, whatever exists by name."""
    methods.names()
    learned = entry("e4t")  # hybrid: a word by an encoder, then optimised
    assert learned.space == "Textual (Word)" and "word" in spaces
    if not spaces.get("word").encodes:
        assert listed(learned).status in (Status.NOT_YET, Status.RUNS)


def test_models_and_spaces_are_never_merely_expressible() -> None:
    for each in entries():
        if each.kind != "method":
            assert listed(each).status in (Status.RUNS, Status.NOT_YET)


def test_what_runs_says_how_and_what_does_not_says_nothing() -> None:
    for each in map(listed, entries()):
        if each.status is Status.RUNS:
            assert each.commands
        if each.status is Status.NOT_YET:
            assert not each.commands


def test_every_command_to_invert_is_one_that_the_contract_accepts() -> None:
    """The recipe, or space and method, of every printed command run on the model that it names."""
    checked = 0
    for each in map(listed, entries()):
        for command in each.commands:
            words = shlex.split(command.partition("  (")[0])
            if words[:2] != ["unified", "invert"] or "... >" in command:
                continue
            given = dict(zip(words[3::2], words[4::2], strict=True))
            model = given["--model"]
            cls = backbones.get(zoo.get(model).backbone if model in zoo else model.lower())
            assert cls.label == each.entry.family
            if "--recipe" in given:
                stages = list(recipes.get(given["--recipe"]).stages)
            elif "--space" in given:
                method = methods.get(given.get("--method", "optimize"))
                stages = [Stage(parse_spaces(given["--space"]), method())]
            else:
                stages = list(recipes.get(cls.default_recipe).stages)
            assert refusal(cls, stages) is None, command
            checked += 1
    assert checked > 20


def test_a_note_stands_behind_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "links", lambda: (Link("recipe", "pti", ("hyperstyle",), "by optimising"),))
    (command,) = listed(entry("hyperstyle")).commands
    assert command.endswith("--recipe pti  (by optimising)")
