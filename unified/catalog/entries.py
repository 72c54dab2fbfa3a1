"""Reading the catalog: the survey's methods as typed records."""

from __future__ import annotations

import csv
import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files

from unified.errors import UserError

SURVEY, LINKS, TERMS = "survey.tsv", "links.tsv", "terms.tsv"
NOT_FROM_THE_SURVEY = "-"
KINDS = ("method", "space", "model")


class Status(StrEnum):
    """RUNS: registered here. EXPRESSIBLE: space and method exist here and go together, no recipe does yet."""

    RUNS = "runs"
    EXPRESSIBLE = "expressible"
    NOT_YET = "not yet"


@dataclass(frozen=True)
class Entry:
    """One row of the survey's taxonomy and tables; what the survey and the paper leave open is "".

    groups: where the taxonomy has it, "component: group". category: what is personalised.
    space: terms joined by " + " (together) or " / " (one or the other). method: how the space is filled.
    training_data: sources; format; scale, several data sets separated by " | ".
    number: of the reference in the survey. aliases: other names it goes by.
    """

    id: str
    name: str
    family: str
    kind: str
    groups: tuple[str, ...]
    category: str
    space: str
    method: str
    encoder: str
    adapter: str
    backbone: str
    training_data: str
    authors: str
    year: int
    title: str
    number: int
    aliases: tuple[str, ...]

    @property
    def reference(self) -> str:
        """'Roich et al. 2022, Pivotal tuning for latent-based editing of real images'."""
        return f"{self.authors} {self.year}, {self.title}"

    @property
    def spaces(self) -> tuple[tuple[str, ...], ...]:
        """Alternatives, each the terms of the spaces that are filled together; () if none is known."""
        return tuple(tuple(part.split(" + ")) for part in self.space.split(" / ")) if self.space else ()

    def matches(self, text: str) -> bool:
        """Whether every word of `text` stands somewhere in the entry, whatever the case."""
        everything = " ".join(
            (
                *(self.id, self.name, self.family, self.kind, *self.groups, self.category, self.space, self.method),
                *(self.encoder, self.adapter, self.backbone, self.training_data, self.reference, *self.aliases),
            )
        ).lower()
        return all(word in everything for word in text.lower().split())


@dataclass(frozen=True)
class Link:
    """Something registered here, and the ids of the entries that it is; none if it is not from the survey.

    registry: "recipe", "scheme", "directions" (a finder of them), "merge", "space" or "backbone". name: in it.
    note: how it differs from what the survey lists, or where it is from.
    """

    registry: str
    name: str
    entries: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Term:
    """A word of the survey's `column` ("space" or "method") and the registered names it may stand for.

    family: "" for all. names: alternatives, each a sequence of stages.
    """

    column: str
    family: str
    term: str
    names: tuple[tuple[str, ...], ...]


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every entry, in the order of the survey's taxonomy and then of its tables."""
    return tuple(
        Entry(
            id=row["id"],
            name=row["name"],
            family=row["family"],
            kind=row["kind"],
            groups=_parts(row["groups"], ";"),
            category=row["category"],
            space=row["space"],
            method=row["method"],
            encoder=row["encoder"],
            adapter=row["adapter"],
            backbone=row["backbone"],
            training_data=row["training data"],
            authors=row["authors"],
            year=int(row["year"]),
            title=row["title"],
            number=int(row["survey number"]),
            aliases=_parts(row["also called"], ";"),
        )
        for row in _rows(SURVEY)
    )


@functools.cache
def links() -> tuple[Link, ...]:
    """What is registered here and what it is in the survey."""
    return tuple(
        Link(
            row["registry"],
            row["name"],
            () if row["entries"] == NOT_FROM_THE_SURVEY else _parts(row["entries"], ","),
            row["note"],
        )
        for row in _rows(LINKS)
    )


@functools.cache
def terms() -> tuple[Term, ...]:
    """What the survey's words for spaces and methods are called here."""
    return tuple(
        Term(
            row["column"],
            "" if row["family"] == "*" else row["family"],
            row["term"],
            tuple(_parts(name, ">") for name in row["names"].split()),
        )
        for row in _rows(TERMS)
    )


def entry(id: str) -> Entry:
    """One entry by its id. Raises UserError with the nearest ids."""
    known = {each.id: each for each in entries()}
    if id not in known:
        near = difflib.get_close_matches(id, known, n=3, cutoff=0.4)
        raise UserError(f"The survey has no entry {id!r}; nearest: {', '.join(near) or 'none'}.")
    return known[id]


def find(*, family: str | None = None, search: str = "") -> tuple[Entry, ...]:
    """The entries of a family that match a text. Raises UserError for a family that has none."""
    families = survey_families()
    if family is not None and family not in families:
        raise UserError(f"The survey has no family {family!r}; it has {', '.join(families)}.")
    return tuple(each for each in entries() if family in (None, each.family) and each.matches(search))


def survey_families() -> tuple[str, ...]:
    """The families that have entries, in the survey's order."""
    return tuple(dict.fromkeys(each.family for each in entries()))


def _parts(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _rows(name: str) -> Sequence[dict[str, str]]:
    """The rows of a data file of this package. Raises UserError naming the line of a row of the wrong length."""
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return list(read_table(text, name=name))


def read_table(text: str, *, name: str) -> Iterator[dict[str, str]]:
    """Rows of a table with tabs between cells and headings in the first line. Raises UserError for ragged rows."""
    lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    headings = next(lines, [])
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(headings):
            raise UserError(
                f"{name}, line {number}: {len(cells)} cells where the headings name {len(headings)}"
                f" ({', '.join(headings)}); put a tab between cells, also before empty ones."
            )
        yield dict(zip(headings, cells, strict=True))
