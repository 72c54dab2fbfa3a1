"""A study tells nothing to those who answer, and everything to who holds the key."""

import base64
import collections
import json
import re
from pathlib import Path

import pytest
import torch
from scipy import stats

from unified.comparison.run import parse_run
from unified.contract.keys import digest
from unified.errors import UserError
from unified.images import save_image
from unified.study.make import KEY, PAGE, make_study
from unified.study.material import Material, read_report
from unified.study.tally import preference, tally
from unified.study.trials import Question, Trial, draw_trials

RUNS = ("avatars/stylegan2:pti", "avatars/stable-diffusion:textual-inversion", "avatars/emu3:two-stage")
PROMPTS = ("a portrait of <me>", "<me> with </script><b>markup</b>", "<me> in red", "<me> smiling")
SEEDS = (0, 1)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The folder of a comparison of three runs; one picture of the last run is missing."""
    folder = tmp_path / "report"
    folder.mkdir()
    about = {"runs": RUNS, "prompts": PROMPTS, "seeds": SEEDS, "category": "person", "name": "<me>"}
    (folder / "comparison.json").write_text(json.dumps(about))
    for number, run in enumerate(RUNS):
        for place, prompt in enumerate(PROMPTS):
            for seed in SEEDS:
                picture = torch.full((3, 8, 8), 0.1 * (3 * place + number)).clamp(max=1)
                picture[0] = seed / 2
                save_image(picture, folder / "cells" / parse_run(run).slug / f"{digest(prompt)[:10]}-{seed}.png")
    (folder / "cells" / parse_run(RUNS[2]).slug / f"{digest(PROMPTS[0])[:10]}-1.png").unlink()
    return folder


@pytest.fixture
def material(report: Path) -> Material:
    return read_report(report, references=torch.rand(2, 3, 8, 8))


def test_pictures_are_found_and_texts_have_no_placeholder(material: Material) -> None:
    assert material.runs == RUNS
    assert len(material.pictures) == 3 * 4 * 2 - 1
    assert material.texts[0] == "a portrait of a person"
    assert float(material.pictures[RUNS[1], 2, 0][2].mean()) == pytest.approx(0.7, abs=0.01)


def test_every_pair_is_shown_once_for_each_question(material: Material) -> None:
    trials = draw_trials(material, seed=0)
    found = collections.Counter((t.question, t.text, t.seed, frozenset((t.left, t.right))) for t in trials)
    assert set(found.values()) == {1}
    assert len(trials) == 2 * (3 * 4 * 2 - 2)  # two pairs lack the missing picture
    without = draw_trials(Material(**{**vars(material), "references": None}), seed=0)
    assert {t.question for t in without} == {Question.PROMPT}


def test_sides_are_balanced_within_every_pair(material: Material) -> None:
    for seed in range(5):
        left: dict[object, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for trial in draw_trials(material, seed=seed):
            left[trial.question, frozenset((trial.left, trial.right))][trial.left] += 1
        for counts in left.values():
            assert len(counts) == 2 and max(counts.values()) - min(counts.values()) <= 1


def test_the_seed_decides(material: Material) -> None:
    assert draw_trials(material, seed=3) == draw_trials(material, seed=3)
    assert draw_trials(material, seed=3) != draw_trials(material, seed=4)


def test_a_limit_is_shared_evenly(material: Material) -> None:
    trials = draw_trials(material, seed=0, limit=14)
    counts = collections.Counter((t.question, frozenset((t.left, t.right))) for t in trials)
    assert len(trials) == 14 and set(counts.values()) == {2, 3} and len(counts) == 6
    with pytest.raises(UserError, match="6 pairs"):
        draw_trials(material, seed=0, limit=5)


def test_the_page_knows_no_run(material: Material, tmp_path: Path) -> None:
    make_study(material, tmp_path, seed=0)
    page = (tmp_path / PAGE).read_text()
    for run in RUNS:
        for part in (run, parse_run(run).slug, *re.split(r"[/:]", run)[1:]):
            assert part not in page
    assert digest(PROMPTS[0])[:10] not in page
    assert "http" not in page  # nothing from outside
    # The pictures themselves carry no text either.
    for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        png = base64.b64decode(data)
        assert b"tEXt" not in png and b"iTXt" not in png and b"eXIf" not in png


def test_markup_in_prompts_is_text(material: Material, tmp_path: Path) -> None:
    make_study(material, tmp_path, seed=0)
    page = (tmp_path / PAGE).read_text()
    assert "</script><b>" not in page and "<b>markup" not in page
    assert page.count("</script>") == 2


def answer(folder: Path, path: Path, choose: dict[str, str], *, participant: str) -> Path:
    """A file as the page saves it."""
    key = json.loads((folder / KEY).read_text())
    answers = {trial: {"choice": side, "seconds": 1.2} for trial, side in choose.items()}
    path.write_text(json.dumps({"study": key["study"], "format": 1, "participant": participant, "answers": answers}))
    return path


def prefer(trials: list[Trial], order: tuple[str, ...]) -> dict[str, str]:
    """Always the run that stands first in `order`."""
    return {t.id: "left" if order.index(t.left) < order.index(t.right) else "right" for t in trials}


def test_answers_are_decoded_by_the_key(material: Material, tmp_path: Path) -> None:
    trials = make_study(material, tmp_path, seed=0)
    one = answer(tmp_path, tmp_path / "1.json", prefer(trials, RUNS), participant="a")
    found = tally(tmp_path, [one])
    assert (found.participants, found.answers) == (1, len(trials))
    assert len(found.pairs) == 6 and all(pair.share == 1 for pair in found.pairs)
    shares = {(p.question, p.run): p.share for p in found.overall}
    assert shares["prompt", RUNS[0]] == 1 and shares["prompt", RUNS[2]] == 0
    assert shares["prompt", RUNS[1]] == pytest.approx(7 / 15)  # wins 7 against the last, loses 8 to the first
    two = answer(tmp_path, tmp_path / "2.json", prefer(trials, RUNS[::-1]), participant="b")
    both = tally(tmp_path, [one, two, one])  # the same file twice counts once
    assert both.participants == 2 and all(pair.share == 0.5 and pair.chance == 1 for pair in both.pairs)
    left = answer(tmp_path, tmp_path / "3.json", {t.id: "left" for t in trials}, participant="c")
    assert all(abs(pair.share - 0.5) <= 0.1 for pair in tally(tmp_path, [left]).pairs)  # sides are balanced


def test_intervals_are_exact() -> None:
    """Clopper-Pearson by its definition: at the bounds, what was seen or more extreme has probability 2.5 %."""
    found = preference("prompt", "a", "b", 14, 20)
    assert float(stats.binom.sf(13, 20, found.low)) == pytest.approx(0.025)
    assert float(stats.binom.cdf(14, 20, found.high)) == pytest.approx(0.025)
    none, every = preference("prompt", "a", "b", 0, 10), preference("prompt", "a", "b", 10, 10)
    assert none.low == 0 and none.high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert every.high == 1 and every.low == pytest.approx(0.025 ** (1 / 10))
    assert every.chance == pytest.approx(2 / 2**10)
    assert preference("prompt", "a", "b", 14, 20, confidence=0.5).low > found.low


def test_what_does_not_fit_is_refused(material: Material, tmp_path: Path) -> None:
    trials = make_study(material, tmp_path, seed=0)
    good = answer(tmp_path, tmp_path / "good.json", {trials[0].id: "left"}, participant="a")
    other = answer(tmp_path, tmp_path / "other.json", {trials[0].id: "right"}, participant="a")
    with pytest.raises(UserError, match="already given other answers"):
        tally(tmp_path, [good, other])
    with pytest.raises(UserError, match="'t999'"):
        tally(tmp_path, [answer(tmp_path, tmp_path / "x.json", {"t999": "left"}, participant="b")])
    with pytest.raises(UserError, match="'middle'"):
        tally(tmp_path, [answer(tmp_path, tmp_path / "y.json", {trials[0].id: "middle"}, participant="b")])
    data = json.loads(good.read_text())
    (tmp_path / "z.json").write_text(json.dumps({**data, "study": "0123"}))
    with pytest.raises(UserError, match="0123"):
        tally(tmp_path, [tmp_path / "z.json"])
    for text in ("[]", "{}", "no json"):
        (tmp_path / "w.json").write_text(text)
        with pytest.raises(UserError, match=r"w\.json"):
            tally(tmp_path, [tmp_path / "w.json"])
    with pytest.raises(UserError, match="unified study make"):
        tally(tmp_path / "nowhere", [good])


def test_a_folder_without_a_comparison_is_refused(report: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unified compare"):
        read_report(tmp_path)
    with pytest.raises(UserError, match="no run 'x'"):
        read_report(report, runs=["x"])
    with pytest.raises(UserError, match="at least 2"):
        read_report(report, runs=[RUNS[0]])
    assert read_report(report, runs=RUNS[:2]).runs == RUNS[:2]
