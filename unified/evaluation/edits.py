"""What edits by name make of the held-out people: the attribute that they are for, all others, and who it is.

An edit is counted for those who do not show its value yet. It changed its target if the attribute classifier reads
the value afterwards; it kept another attribute if the classifier reads there what it read before the edit. Before is
the inverted picture, not the original: what the inversion lost is no fault of the edit. Identity is towards the
original, before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unified.avatars.captions import is_hidden, phrase
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.directions_hook import ValueEdit, edits_towards
from unified.errors import UserError
from unified.evaluation.avatarbench import Judges
from unified.evaluation.table import Measured, Result
from unified.metrics.bootstrap import mean_interval
from unified.metrics.score import Score

#: What is asked for unless said otherwise: smile, glasses, hair colour and facial hair.
VALUES = ("mouth=smile", "mouth=big smile", "glasses", "hair_colour", "facial_hair")
PROTOCOL = "avatarbench edits"


@dataclass(frozen=True)
class EditScore:
    """One edit of one person's picture.

    changed: 1 if the picture shows the value afterwards, else 0. kept: share of the other attributes that read as
    before, 0..1. identity, identity_before: cosine to the original picture, after and before the edit.
    """

    person: str
    method: str
    value: str
    changed: float
    kept: float
    identity: float
    identity_before: float

    @property
    def attribute(self) -> str:
        return self.value.partition("=")[0]


def wanted_values(asked: Sequence[str], vocabulary: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """["glasses", "mouth=smile"] -> {"glasses=none": "a person without glasses", ...}: values and their wording.

    An attribute stands for all of its values. Raises UserError for one that the vocabulary lacks.
    """
    found: dict[str, str] = {}
    for each in asked:
        attribute, equals, value = each.partition("=")
        values = vocabulary.get(attribute, ())
        if not values or (equals and value not in values):
            known = ", ".join(values or vocabulary)
            raise UserError(
                f"There is no attribute value {each!r} to edit; give ATTRIBUTE or ATTRIBUTE=VALUE: {known}."
            )
        for one in [value] if equals else values:
            found[f"{attribute}={one}"] = f"a person {_wording(attribute, one)}"
    return found


def _wording(attribute: str, value: str) -> str:
    try:
        return phrase(attribute, value)
    except UserError:  # a vocabulary other than the avatars'
        return f"with {attribute} {value}".replace("_", " ")


def chosen_edits(
    backbone: Backbone,
    asked: Sequence[str],
    vocabulary: Mapping[str, Sequence[str]],
    *,
    methods: Sequence[str] = (),
    strength: float | None = None,
) -> list[ValueEdit]:
    """The backbone's edits towards the asked values. methods: of these alone. strength: instead of each one's own.

    Raises UserError if there are none, or none of a method.
    """
    every = edits_towards(backbone, wanted_values(asked, vocabulary))
    known = sorted({edit.method for edit in every})
    missing = sorted(set(methods) - set(known))
    if missing or not every:
        raise UserError(
            f"{backbone.id} has no edits towards these values"
            + (f" by {missing[0]}" if missing else "")
            + f"; it has some by {', '.join(known) or 'no method'}: `unified edit --list` shows all."
        )
    chosen = [edit for edit in every if not methods or edit.method in methods]
    if strength is None:
        return chosen
    # The sign is the direction's: a component may show the value when it is followed backwards.
    return [replace(edit, strength=strength if edit.strength >= 0 else -strength) for edit in chosen]


def together(concepts: Sequence[Concept]) -> Iterator[tuple[Concept, list[int]]]:
    """The concepts as few as possible, with the places of what they hold: one, if all codes are per picture.

    Changes of weights are one person's own, so those concepts stay alone.
    """
    layouts = {tuple((code.space, code.per_picture) for code in concept.codes) for concept in concepts}
    if len(layouts) == 1 and all(per_picture for _, per_picture in next(iter(layouts))):
        codes = [Code.together(parts) for parts in zip(*(concept.codes for concept in concepts), strict=True)]
        yield concepts[0].with_codes(codes), list(range(len(concepts)))
        return
    for place, concept in enumerate(concepts):
        yield concept, [place]


def judge_edit(
    before: Tensor, after: Tensor, originals: Tensor, people: Sequence[str], edit: ValueEdit, judges: Judges
) -> list[EditScore]:
    """Scores of those who do not show the value yet, neither in the original nor before the edit.

    before, after, originals: [N,3,H,W], a picture of each of the people.
    """
    attribute, _, value = edit.value.partition("=")
    own = judges.identity(originals)
    similar, similar_before = ((judges.identity(images) * own).sum(1).tolist() for images in (after, before))
    seen = [judges.attributes.names(images) for images in (originals, before, after)]
    found = []
    for row, (original, was, now) in enumerate(zip(*seen, strict=True)):
        if value in (original[attribute], was[attribute]):
            continue
        others = [name for name in was if name != attribute and not is_hidden(name, was) and not is_hidden(name, now)]
        kept = sum(was[name] == now[name] for name in others) / len(others)
        changed = float(now[attribute] == value)
        found.append(EditScore(people[row], edit.method, edit.value, changed, kept, similar[row], similar_before[row]))
    return found


def wishes(edit: ValueEdit, shown: Sequence[str], opposed: Mapping[str, ValueEdit]) -> dict[str, dict[str, float]]:
    """Value that pictures show -> what they are asked for: the edit, and where one is known less the shown value.

    opposed: value -> the edit towards it.
    """
    found: dict[str, dict[str, float]] = {}
    for value in dict.fromkeys(shown):
        wish = {edit.asked: edit.strength}
        if value in opposed:
            other = opposed[value]
            wish[other.asked] = wish.get(other.asked, 0.0) - other.strength
        found[value] = wish
    return found


@torch.no_grad()
def evaluate_edits(
    backbone: Backbone,
    concepts: Sequence[Concept],
    originals: Tensor,
    edits: Sequence[ValueEdit],
    judges: Judges,
    *,
    opposed: Sequence[ValueEdit] = (),
    multiples: Sequence[float] = (1.0,),
    seed: int = 0,
    progress: Progress | None = None,
) -> list[EditScore]:
    """Make every edit of every concept and judge it.

    concepts: each of one picture. originals: [N,3,H,W], those pictures. opposed: edits that are composed, with the
    opposite sign, with those of their method where a picture shows their value ("pink +5 & black -4"). multiples: of
    the strengths, tried in turn until a picture shows the value, as with a slider; judged is that picture, or the last.
    """
    progress = progress or Silent()
    groups = list(together(concepts))
    progress.start("editing", len(groups) * len(edits))
    found: list[EditScore] = []
    for number, (concept, places) in enumerate(groups):
        names = [concepts[place].name for place in places]
        before = backbone.generate(concept, seed=seed, output="pt", progress=Silent())
        shown = judges.attributes.names(before)
        for done, edit in enumerate(edits, 1):
            attribute = edit.value.partition("=")[0]
            values = [f"{attribute}={each[attribute]}" for each in shown]
            own = {other.value: other for other in opposed if other.method == edit.method}
            after, waiting = before.clone(), {row for row, each in enumerate(values) if each != edit.value}
            for tried, multiple in enumerate(multiples):
                if tried:
                    seen = judges.attributes.names(after)
                    waiting -= {row for row, now in enumerate(seen) if f"{attribute}={now[attribute]}" == edit.value}
                for value, wish in wishes(edit, values, own).items():
                    rows = [row for row in sorted(waiting) if values[row] == value]
                    if rows:
                        part = concept.with_codes([code.pick(rows) for code in concept.codes])
                        asked = {name: multiple * strength for name, strength in wish.items()}
                        after[rows] = backbone.generate(part, edits=asked, seed=seed, output="pt", progress=Silent())
            found += judge_edit(before, after, originals[places], names, edit, judges)
            progress.advance(number * len(edits) + done)
    progress.finish()
    return found


@dataclass(frozen=True)
class Summary:
    """Scores of one method and attribute (or value). edits: pairs of a person and an edit that were counted.

    scores: "changed", "kept", "identity" and "identity before", each the mean over people of a person's mean.
    """

    method: str
    target: str
    edits: int
    people: int
    scores: Mapping[str, Measured]


_MEASURED = {
    **dict.fromkeys(("changed", "kept"), "avatars/attributes"),
    **dict.fromkeys(("identity", "identity before"), "avatars/identity"),
}


def summarise(scores: Sequence[EditScore], *, each: bool = False) -> list[Summary]:
    """By method and attribute; with `each` by method and value. Intervals are over people, where there are two."""
    groups: dict[tuple[str, str], list[EditScore]] = {}
    for score in scores:
        groups.setdefault((score.method, score.value if each else score.attribute), []).append(score)
    found = []
    for (method, target), own in groups.items():
        by_person: dict[str, list[EditScore]] = {}
        for score in own:
            by_person.setdefault(score.person, []).append(score)
        measured = {}
        for name, extractor in _MEASURED.items():
            column = [
                sum(getattr(score, name.replace(" ", "_")) for score in some) / len(some) for some in by_person.values()
            ]
            mean = Score(sum(column) / len(column), name, extractor, "edits > people")
            measured[name] = Measured(mean, mean_interval(column) if len(column) > 1 else None, len(column))
        found.append(Summary(method, target, len(own), len(by_person), measured))
    return found


def results(run: str, summaries: Sequence[Summary], *, protocol: str = PROTOCOL) -> list[Result]:
    """A result for each method of a run, such as "glasses changed". protocol: also says how edits were asked for."""
    by_method: dict[str, dict[str, Measured]] = {}
    for summary in summaries:
        for name, found in summary.scores.items():
            metric = f"{summary.target} {name}"
            score = Score(found.score.value, metric, found.score.extractor, found.score.averaging)
            by_method.setdefault(summary.method, {})[metric] = Measured(score, found.interval, found.count)
    return [Result(f"{run} {method}", protocol, own) for method, own in by_method.items()]
