"""Count the answers of a study: how often each run was preferred, with exact binomial intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from unified.errors import UserError
from unified.study.make import KEY

LARGEST = 4 * 2**20  # bytes of a file of answers


@dataclass(frozen=True)
class Answers:
    """What one participant chose: trial -> "left" or "right"."""

    participant: str
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Preference:
    """Of `count` choices between `run` and `other` (or any other, if ""), `wins` were for `run`.

    low, high: Clopper-Pearson interval of the share at `confidence`. chance: probability of a share at least as
    far from 1/2 if both were liked alike (exact binomial test, two sides). All take answers as independent; those
    of one participant are not quite, so with few participants the interval is too narrow.
    """

    question: str
    run: str
    other: str
    wins: int
    count: int
    low: float
    high: float
    chance: float

    @property
    def share(self) -> float:
        return self.wins / self.count


@dataclass(frozen=True)
class Tally:
    """pairs: of each question every two runs; overall: of each question each run against all others together."""

    pairs: tuple[Preference, ...]
    overall: tuple[Preference, ...]
    participants: int
    answers: int
    confidence: float


def preference(question: str, run: str, other: str, wins: int, count: int, *, confidence: float = 0.95) -> Preference:
    """The interval of Clopper and Pearson (1934) by quantiles of the beta distribution, and the exact test."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, wins, count - wins + 1)) if wins > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, wins + 1, count - wins)) if wins < count else 1.0
    chance = float(stats.binomtest(wins, count).pvalue)
    return Preference(question, run, other, wins, count, low, high, chance)


def tally(folder: Path, files: Sequence[Path], *, confidence: float = 0.95) -> Tally:
    """Count the answers in `files` to the study in `folder`.

    Raises UserError for a file that is no answers, or to another study, or of a participant who is there twice
    with different answers; the same answers twice count once.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence} was asked for; expected a share between 0 and 1.")
    key = _read(folder / KEY, "the key of a study: give the folder that `unified study make` wrote")
    try:
        trials = {row["id"]: row for row in key["trials"]}
        runs, study = list(key["runs"]), str(key["study"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / KEY} is no key of a study ({error}).") from error
    known: dict[str, Answers] = {}
    for file in files:
        found = read_answers(file, study=study, trials=trials)
        before = known.setdefault(found.participant, found)
        if before.choices != found.choices:
            raise UserError(
                f"{file}: the participant {found.participant} has already given other answers; leave one file out."
            )
    if not known:
        raise UserError("No answers were given: name at least one file of results.")
    votes = list(_votes(known.values(), trials))
    return Tally(
        tuple(_pairs(votes, runs, confidence)),
        tuple(_overall(votes, runs, confidence)),
        len(known),
        len(votes),
        confidence,
    )


def read_answers(path: Path, *, study: str, trials: Mapping[str, Any]) -> Answers:
    """One file that the page wrote. Raises UserError for anything that does not fit."""
    data = _read(path, "results of a study: give the files that the page saved")
    if not isinstance(data, dict) or not isinstance(data.get("answers"), dict) or not data.get("participant"):
        raise UserError(f"{path} holds no results of a study: give the files that the page saved.")
    if data.get("study") != study:
        raise UserError(f"{path} answers the study {data.get('study')!r}, this one is {study!r}.")
    choices: dict[str, str] = {}
    for trial, answer in data["answers"].items():
        choice = answer.get("choice") if isinstance(answer, dict) else None
        if trial not in trials or choice not in ("left", "right"):
            raise UserError(
                f"{path}: the answer to trial {trial!r} is {choice!r}; expected left or right of a known one."
            )
        choices[trial] = choice
    return Answers(str(data["participant"]), choices)


def _read(path: Path, what: str) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST // 2**20} MiB; it is not {what}.")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as {what} ({error}).") from error


@dataclass(frozen=True)
class _Vote:
    question: str
    winner: str
    loser: str


def _votes(answers: Iterable[Answers], trials: Mapping[str, Any]) -> Iterable[_Vote]:
    for each in answers:
        for id, choice in each.choices.items():
            row = trials[id]
            other = "right" if choice == "left" else "left"
            yield _Vote(row["question"], row[choice], row[other])


def _pairs(votes: Sequence[_Vote], runs: Sequence[str], confidence: float) -> Iterable[Preference]:
    for question in sorted({vote.question for vote in votes}):
        for number, a in enumerate(runs):
            for b in runs[number + 1 :]:
                wins = sum((v.question, v.winner, v.loser) == (question, a, b) for v in votes)
                losses = sum((v.question, v.winner, v.loser) == (question, b, a) for v in votes)
                if wins + losses:
                    yield preference(question, a, b, wins, wins + losses, confidence=confidence)


def _overall(votes: Sequence[_Vote], runs: Sequence[str], confidence: float) -> Iterable[Preference]:
    for question in sorted({vote.question for vote in votes}):
        for run in runs:
            wins = sum(v.question == question and v.winner == run for v in votes)
            count = wins + sum(v.question == question and v.loser == run for v in votes)
            if count:
                yield preference(question, run, "", wins, count, confidence=confidence)
