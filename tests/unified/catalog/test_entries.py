"""The survey as data: complete, well formed, and right where it can be checked by hand."""

import collections

import pytest

from unified.catalog.entries import KINDS, entries, entry, find, read_table, terms
from unified.errors import UserError


def test_every_reference_of_the_taxonomy_and_the_tables_is_there() -> None:
    """Numbers of the survey's reference list: taxonomy and tables cite all of 34-197, the tables some up to 338."""
    numbers = {each.number for each in entries()}
    assert {2, 3, 9, *range(10, 22), 24, 25, 28, *range(34, 198)} <= numbers
    tables = {251, 253, 255, 256, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 271, 273, 275, 277}
    tables |= {280, 281, 282, 283, 284, 285, 287, 289, 290, 291, 292, *range(295, 303), *range(308, 313)}
    tables |= {314, 315, 316, 317, 318, *range(320, 339)}
    assert tables <= numbers
    assert not numbers & {1, 4, 5, 22, 23, 198, 236, 249, 250, 252, 254, 269, 270, 286, 339}


def test_every_entry_is_well_formed() -> None:
    ids = collections.Counter(each.id for each in entries())
    assert [id for id, count in ids.items() if count > 1] == []
    for each in entries():
        assert each.id == each.id.lower() and " " not in each.id
        assert each.name and each.authors and each.title and each.groups
        assert each.kind in KINDS
        assert 2015 <= each.year <= 2025
        assert each.kind == "method" or each.space


def test_one_entry_is_what_the_tables_say() -> None:
    elite = entry("elite")
    assert elite.spaces == (("Textual (Word)", "Feature"),)
    assert (elite.method, elite.encoder, elite.adapter, elite.backbone) == ("Learning-based", "CLIP", "DCA", "SD 1.4")
    assert elite.training_data == "OpenImages; Paired Images, Text; 13K"
    assert elite.reference.startswith("Wei et al. 2023, ")
    assert "Inversion Space: Feature Space" in elite.groups
    assert entry("styleclip").spaces == (("W+",), ("S",))
    assert entry("instantbooth").training_data.count(" | ") == 1  # one set of faces, one of cats


def test_spellings_of_one_method_are_one_entry() -> None:
    assert entry("ip-adapter").aliases == ("IPAdapter",)
    assert [each.id for each in find(search="Imagine-yourself")] == ["imagine-yourself"]
    assert entry("diffusion-self-distillation").encoder == "FLUX Encoder"  # "Cai et al." in that table


def test_search_takes_all_words_in_any_order_and_case() -> None:
    found = find(family="diffusion", search="ARCFACE face")
    assert {"facestudio", "idadapter", "infinite-id"} <= {each.id for each in found}
    assert all("arcface" in each.encoder.lower() or each.matches("arcface") for each in found)
    assert find(search="no such method anywhere") == ()
    assert {each.family for each in find(family="gan")} == {"gan"}


def test_what_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(UserError, match="autoregressive"):
        find(family="galaxy")
    with pytest.raises(UserError, match="pti"):
        entry("ptii")


def test_every_word_for_spaces_and_methods_is_explained() -> None:
    """Else an entry would be `not yet` for want of a row, not for want of a space."""
    known = {(each.column, family, each.term) for each in terms() for family in (each.family or _families())}
    known |= {(each.column, each.family, each.term) for each in terms()}
    for each in entries():
        if each.kind != "method":
            continue
        for term in {term for together in each.spaces for term in together}:
            assert ("space", each.family, term) in known, f"add a row to terms.tsv: space, {each.family}, {term}"
        if each.method:
            assert ("method", "", each.method) in known, f"add a row to terms.tsv: method, *, {each.method}"


def _families() -> list[str]:
    return sorted({each.family for each in entries()})


def test_a_ragged_row_is_named() -> None:
    rows = list(read_table("a\tb\n1\t2\n", name="x.tsv"))
    assert rows == [{"a": "1", "b": "2"}]
    with pytest.raises(UserError, match=r"x\.tsv, line 3: 1 cells"):
        list(read_table("a\tb\n1\t2\n3\n", name="x.tsv"))
