"""Searching the survey in the app: what is found, and that it is shown as text."""

import re
from dataclasses import replace

import pytest

import unified  # noqa: F401  (registers what runs)

pytest.importorskip("gradio", reason="the app needs gradio")

from unified.app.catalog_page import all_categories, categories_of, results, search
from unified.catalog.entries import Status, entries, entry
from unified.catalog.status import Listed, listed
from unified.errors import UserError


def test_without_a_wish_everything_is_found_and_what_runs_comes_first() -> None:
    found = search()
    assert {one.entry.id for one in found} == {each.id for each in entries()}
    order = [list(Status).index(one.status) for one in found]
    assert order == sorted(order) and set(order) == {0, 1, 2}


def test_wishes_hold_together() -> None:
    found = search(words="BASIS", family="diffusion", category="Face", status=Status.RUNS)
    assert "celeb-basis" in {one.entry.id for one in found}
    for one in found:
        assert one.entry.family == "diffusion" and "Face" in one.entry.category and one.status is Status.RUNS
        assert one.entry.matches("basis") and one.commands
    assert "pti" in {one.entry.id for one in search(words="pivotal tuning")}
    assert search(words="no such method anywhere") == []
    with pytest.raises(UserError, match="no family 'gun'"):
        search(family="gun")


def test_an_entry_of_two_categories_is_found_by_both() -> None:
    both = next(each for each in entries() if each.category == "Style + Subject")
    assert categories_of(both) == ["Style", "Subject"]
    for category in ("Style", "Subject"):
        assert both.id in {one.entry.id for one in search(category=category)}
    names = all_categories()
    assert names[0] == "Subject" and len(set(names)) == len(names) and not any("+" in name for name in names)


def test_what_runs_is_shown_with_its_command_and_what_does_not_without() -> None:
    shown = results([listed(entry("pti"))])  # a note stands beside its command, which is copied without it
    assert "1 runs, 0 expressible, 0 not yet" in shown and "Roich" in shown
    assert re.search(
        r"<code>unified invert PICTURES --model [\w/-]+ --output me.safetensors --recipe pti</code>", shown
    )
    assert re.search(r"--recipe e4e-pti</code></pre>\s*<p class=\"reference\">from e4e", shown)
    missing = next(one for one in search(status=Status.NOT_YET))
    assert "<code>" not in results([missing]) and "not yet" in results([missing])
    assert "Nothing of the survey matches" in results([])


def test_what_the_catalog_says_is_never_markup() -> None:
    evil = replace(entry("pti"), name="<script>x</script>", title="<img src=x onerror=y>")
    shown = results([Listed(evil, Status.RUNS, ("<b>command</b>",))])
    assert "<script" not in shown and "<img" not in shown and "&lt;b&gt;command" in shown
