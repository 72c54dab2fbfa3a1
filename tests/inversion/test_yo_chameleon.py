"""Soft prompts of two sorts, learnt from pictures by how much they resemble the concept."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from inversion.methods import soft_positives
from inversion.methods.optimize import Optimize
from inversion.methods.soft_positives import SoftPositives, token_counts
from inversion.objectives.recognition import Recognition, check_answers
from inversion.spaces.dual_prompt import DualPrompt, drawing_name, understanding_name
from inversion.spaces.textual import Word
from tests.tiny.families import FAMILIES, pictures, tiny
from unified.contract.concept import Concept
from unified.contract.method import Job, Member
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipe_refusal, recipes, refusal
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.images import to_pil
from unified.inversion import InvertSettings, invert, invert_many

SPACE = DualPrompt(generation=4, understanding=3)
QUICK = SoftPositives(pictures=6, groups=2, steps=3, lr=0.05, batch=4)


class Colours:
    """A scorer that sees the mean colour."""

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return functional.normalize(images.mean((2, 3)) - 0.5, dim=1)


@pytest.fixture(autouse=True)
def scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models are random: here they pass for models that answer."""
    monkeypatch.setattr(soft_positives.clip, "load", Colours)
    monkeypatch.setattr(soft_positives, "check_answers", lambda *_: None)


def recipe(method=QUICK, space=SPACE) -> Recipe:  # type: ignore[no-untyped-def]
    return Recipe("t", (Stage((space,), method),), scheme="prompt", cite="")


def started(family: str = "emu3") -> Concept:
    """The prompt as it starts."""
    backbone = tiny(family)
    reference = pictures(backbone, 1)
    with Job(backbone, [Member(reference)], Random(0)).open() as view:
        code = SPACE.initial(view, reference, rng=Random(0))
    return Concept([code], name="<me>", category="a")


def coloured(*colours: tuple[float, float, float], size: int = 16) -> torch.Tensor:
    return torch.stack([torch.tensor(c).view(3, 1, 1).expand(3, size, size) for c in colours])


def test_groups_get_more_tokens_the_more_similar_they_are() -> None:
    assert token_counts(6, groups=2, tokens=16) == [6, 6, 6, 11, 11, 11]
    assert token_counts(8, groups=8, tokens=16) == [2, 4, 6, 8, 9, 11, 13, 15]
    assert token_counts(5, groups=2, tokens=1) == [1, 1, 1, 1, 1]


def test_similar_pictures_come_ranked_and_explained_by_as_many_tokens(tmp_path: Path) -> None:
    """A folder of known colours and a red reference: ordered by cosine, the least similar is left."""
    greens = [(0.5 + 0.4 * (1 - k / 6), 0.5 + 0.4 * k / 6, 0.5) for k in range(7)]
    for number in (3, 0, 6, 2, 5, 1, 4):
        to_pil(coloured(greens[number], size=64))[0].save(tmp_path / f"{number}.png")
    backbone = tiny("emu3")
    method = dataclasses.replace(QUICK, pool=str(tmp_path))
    red = Reference(coloured((0.9, 0.5, 0.5)), category="person", name="<me>")
    similar = method.similar(backbone, red)
    found = similar.mean((2, 3))[:, 1]
    assert torch.allclose(found, torch.tensor([greens[k][1] for k in (5, 4, 3, 2, 1, 0)]), atol=0.01)
    taught = method.ranked(red, similar, 4)
    assert len(taught) == 6 + 3  # the reference as often as a group has pictures
    captions = taught.captions
    assert captions is not None
    assert [c.split(".")[0] for c in captions] == ["{} is {}:g2"] * 3 + ["{} is {}:g3"] * 3 + ["{} is {}:g4"] * 3
    with pytest.raises(UserError, match="holds 7 pictures"):
        dataclasses.replace(method, pictures=8).similar(backbone, red)
    with pytest.raises(UserError, match="cannot be divided"):
        dataclasses.replace(method, groups=9).similar(backbone, red)


def test_each_task_reaches_its_own_tokens() -> None:
    """A picture explained by two tokens teaches the word and these two; a question the word and the others."""
    backbone, reference = tiny("emu3"), pictures(tiny("emu3"), 2)
    concept = started()
    rows = concept.codes[0].tensors["model"].requires_grad_()

    def touched(loss: torch.Tensor) -> list[bool]:
        rows.grad = None
        loss.sum().backward()
        assert rows.grad is not None
        return (rows.grad.abs().sum(1) > 0).tolist()

    with backbone.bound(concept) as view:

        def explain(prompt: str):  # type: ignore[no-untyped-def]
            return view.attempt(reference, rng=Random(0), prompts=[prompt] * 2)

        few = f"<me> is {drawing_name('<me>', 2)}. a photo of <me>"
        assert touched(explain(few).error) == [True] * 3 + [False] * 5
        assert touched(explain("a photo of <me>").error) == [True] * 5 + [False] * 3
        asked = Recognition(shown=frozenset({0}))(view, explain("a"), [], Step(0, 1))
        assert touched(asked) == [True] + [False] * 4 + [True] * 3
        assert view.carry("a photo of <me>") == "<me> is <me>:g4. a photo of <me>"
        assert view.carry(few) == few
        assert view.carry("a person") == "a person"
        assert view.rows[understanding_name("<me>")] == [-6, -7, -8]


@pytest.mark.parametrize("family", ["emu3", "janus"])
def test_learning_explains_the_pictures_and_knows_them(family: str) -> None:
    backbone = tiny(family)
    reference = pictures(backbone, 2)
    others = pictures(backbone, 4, seed=7)
    scores = []
    for concept in (
        started(family),
        invert(backbone, reference, recipe(dataclasses.replace(QUICK, steps=60)), InvertSettings()),
    ):
        with torch.no_grad(), backbone.bound(concept) as view:
            error = view.attempt(reference, rng=Random(0), prompts=["a photo of <me>"] * 2).error.mean()
            attempt = view.attempt(others, rng=Random(0), prompts=["a"] * 4)
            unknown = Recognition()(view, attempt, [], Step(0, 1)).mean()
            known = Recognition(shown=frozenset({0, 1}))(
                view, view.attempt(reference, rng=Random(0)), [], Step(0, 1)
            ).mean()
        scores.append((float(error), float(known), float(unknown)))
    assert scores[1][0] < scores[0][0] - 0.1
    assert sum(scores[1][1:]) < sum(scores[0][1:]) - 0.5


def test_same_seed_same_concept_and_files_keep_everything(tmp_path: Path) -> None:
    backbone = tiny("emu3")
    first, second = (invert(backbone, pictures(backbone, 2), recipe(), InvertSettings()) for _ in range(2))
    assert torch.equal(first.codes[0].tensors["model"], second.codes[0].tensors["model"])
    assert first.meta["stages"][0]["soft_positives"] == {"pictures": 6, "from": "tiny/emu3"}
    loaded = Concept.load(first.save(tmp_path / "concept.safetensors"))
    target = Target(prompt="a photo of <me>", n=2)
    made = generate(backbone, [first], target, seed=0)
    assert torch.equal(made, generate(backbone, [loaded], target, seed=0))
    shorter = first.with_codes([started().codes[0]])
    assert not torch.equal(made, generate(backbone, [shorter], target, seed=0))


def test_concepts_learnt_in_one_batch_come_out_as_alone() -> None:
    backbone = tiny("emu3")
    references = [dataclasses.replace(pictures(backbone, 2, seed=seed), name=f"<{seed}>", names=()) for seed in (1, 2)]
    together = invert_many(backbone, references, recipe(), InvertSettings())
    assert together[0].meta["stages"][0]["concepts_in_batch"] == 2
    for reference, concept in zip(references, together, strict=True):
        alone = invert(backbone, reference, recipe(), InvertSettings())
        assert torch.allclose(concept.codes[0].tensors["model"], alone.codes[0].tensors["model"], atol=1e-3)


def test_two_concepts_are_introduced_beside_each_other() -> None:
    backbone = tiny("emu3")
    one, two = started(), started().renamed("<you>")
    with backbone.bound(one, two) as view:
        said = view.carry("<me> and <you>")
        assert said == "<you> is <you>:g4. <me> is <me>:g4. <me> and <you>"
        assert not set(view.rows["<me>:g4"]) & set(view.rows["<you>:g4"])
        view.sample(Target(prompt="<me> and <you>", n=1), rng=Random(0))


def test_what_makes_no_sense_is_refused() -> None:
    chosen = recipes.get("yo-chameleon")
    runs = {family: recipe_refusal(type(tiny(family)), chosen) for family in FAMILIES}
    assert runs["emu3"] is None and runs["janus"] is None
    assert "give a folder" in (runs["chameleon"] or "")
    assert "answers questions" in (runs["var"] or "") and "understanding=0" in (runs["var"] or "")
    assert all(runs[family] for family in FAMILIES if family not in ("emu3", "janus"))
    var = type(tiny("var"))
    assert refusal(var, [Stage((DualPrompt(understanding=0),), QUICK)]) is None
    assert "alone" in (refusal(var, [Stage((Word(),), QUICK)]) or "")
    chameleon = type(tiny("chameleon"))
    assert refusal(chameleon, [Stage((SPACE,), dataclasses.replace(QUICK, pool="folder"))]) is None
    with pytest.raises(UserError, match="at least one for drawing"):
        invert(tiny("emu3"), pictures(tiny("emu3"), 1), recipe(Optimize(), DualPrompt(generation=0)), InvertSettings())
    with pytest.raises(UserError, match="cannot be scaled"), tiny("emu3").bound(started().scaled(0.5)):
        pass


def test_a_model_that_never_learnt_to_answer_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither yes nor no is as likely as a word drawn blindly; the tokens for drawing alone can still be learnt."""
    backbone, reference = tiny("emu3"), pictures(tiny("emu3"), 2)
    blind = math.log(len(backbone.tokenizer))  # type: ignore[attr-defined]
    nats = {"yes": blind + 3, "no": blind - 1}
    asked: set[str] = set()

    def answers(view, shown, questions, words):  # type: ignore[no-untyped-def]
        asked.update(questions)
        return torch.tensor([nats[word] for word in words])

    monkeypatch.setattr(backbone, "answer_error", answers, raising=False)
    check_answers(backbone, reference)  # it says no, which is an answer
    assert asked == {f"is this a {reference.category}?"}
    nats["no"] = blind + 2
    monkeypatch.setattr(soft_positives, "check_answers", check_answers)
    drawing = recipes.get("yo-chameleon-drawing").stages[0].spaces[0]
    assert isinstance(drawing, DualPrompt)
    assert invert(backbone, reference, recipe(space=drawing), InvertSettings()).codes[0].tensors["model"].shape[0] == 17

    def worked(*_: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(SoftPositives, "similar", worked)
    with pytest.raises(UserError, match=f"{blind + 2:.1f} nats.*'yo-chameleon-drawing'"):
        invert(backbone, reference, recipe(), InvertSettings())


def test_chameleon_learns_from_a_folder(tmp_path: Path) -> None:
    """It cannot draw, but explains pictures and answers questions about them."""
    backbone = tiny("chameleon")
    for number, image in enumerate(pictures(backbone, 6, seed=3).images):
        to_pil(functional.interpolate(image[None], size=64))[0].save(tmp_path / f"{number}.png")
    concept = invert(
        backbone, pictures(backbone, 2), recipe(dataclasses.replace(QUICK, pool=str(tmp_path))), InvertSettings()
    )
    rows, start = concept.codes[0].tensors["model"], started("chameleon").codes[0].tensors["model"]
    assert bool(((rows - start).abs().sum(1) > 0).all())
