"""Content and style as two words, learnt in turn at their own scales."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.objectives.scales import ScaleTurns
from inversion.spaces.scale_parts import ContentPart, StylePart, split_scales, style_name
from tests.tiny.families import FAMILIES, pictures, tiny
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipe_refusal, recipes, refusal
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert, invert_many

PROMPT = "a photo of a <me> object in <me>.style style"
RECIPE = recipes.get("csd-var")
LEVELS = torch.tensor([0] + [1] * 4 + [2] * 16)


@functools.cache
def learnt(steps: int, lr: float = 0.05) -> Concept:
    backbone = tiny("var")
    return invert(backbone, pictures(backbone, 1), RECIPE.with_overrides(steps=steps, lr=lr), InvertSettings())


def explained(concept: Concept, prompt: str = PROMPT) -> torch.Tensor:
    backbone = tiny("var")
    with torch.no_grad(), backbone.bound(concept) as view:
        return view.attempt(pictures(backbone, 1), rng=Random(0), prompts=[prompt]).error[0]


def test_scales_are_shared_out_as_in_the_paper() -> None:
    assert split_scales(10) == ((0, 1, 2, 9), (3, 4, 5, 6, 7, 8))
    assert split_scales(5) == ((0, 1, 4), (2, 3))
    assert split_scales(3) == ((0, 2), (1,))
    for count in range(3, 15):
        style, content = split_scales(count)
        assert sorted([*style, *content]) == list(range(count)) and content
    with pytest.raises(UserError, match="three"):
        split_scales(2)


def test_the_losses_are_those_of_the_scales_in_turn() -> None:
    backbone = tiny("var")
    with torch.no_grad(), backbone.bound() as view:
        attempt = view.attempt(pictures(backbone, 2), rng=Random(0), prompts=["a", "a"])
        style, content = (ScaleTurns(minor=0.1)(view, attempt, [], Step(n, 4)) for n in (0, 1))
    own = attempt.error[:, 1:5].mean(1)
    assert torch.allclose(content, own)
    assert torch.allclose(style, attempt.error[:, [0, *range(5, 21)]].mean(1) + 0.1 * own)


def test_each_turn_moves_one_part_alone() -> None:
    start, first, second = learnt(1, 0.0), learnt(1), learnt(2)

    def same(one: Concept, other: Concept, part: int, name: str) -> bool:
        return torch.equal(one.codes[part].tensors[name], other.codes[part].tensors[name])

    content, style = 0, 1
    for name in ("model", "keys", "values"):
        assert same(start, first, content, name) and not same(start, first, style, name)
        assert not same(first, second, content, name) and same(first, second, style, name)
    assert same(start, second, style, "directions")


def test_turns_go_on_where_an_interrupted_run_stopped(tmp_path: Path) -> None:
    """Stopped after an odd number of steps, the next turn is the content's."""

    class Stop(Silent):
        pressed = False

        def advance(self, done: int, *, loss: float | None = None) -> None:
            if done == 3 and not self.pressed:
                self.pressed = True
                raise KeyboardInterrupt

    backbone, recipe = tiny("var"), RECIPE.with_overrides(steps=6, lr=0.05)
    for progress in (Stop(), Silent()):
        found = invert(backbone, pictures(backbone, 1), recipe, InvertSettings(checkpoints=tmp_path, progress=progress))
    whole = learnt(6)
    assert all(
        torch.equal(a.tensors[k], b.tensors[k])
        for a, b in zip(found.codes, whole.codes, strict=True)
        for k in a.tensors
    )


def test_concepts_learnt_in_one_batch_come_out_as_alone() -> None:
    backbone, recipe = tiny("var"), RECIPE.with_overrides(steps=4, lr=0.02)
    references = [dataclasses.replace(pictures(backbone, 1, seed=seed), name=f"<{seed}>", names=()) for seed in (1, 2)]
    for reference, concept in zip(references, invert_many(backbone, references, recipe, InvertSettings()), strict=True):
        assert concept.meta["stages"][0]["concepts_in_batch"] == 2
        alone = invert(backbone, reference, recipe, InvertSettings())
        for one, other in zip(concept.codes, alone.codes, strict=True):
            assert all(torch.allclose(one.tensors[k], other.tensors[k], atol=1e-3) for k in one.tensors)


def test_what_is_said_of_the_style_has_no_part_in_the_contents_variations() -> None:
    backbone, concept = tiny("var"), learnt(2)
    directions = concept.codes[1].tensors["directions"]
    assert directions.shape == (10, 32)
    assert torch.allclose(directions @ directions.T, torch.eye(10), atol=1e-5)
    with torch.no_grad(), backbone.bound() as view:
        meanings = backbone.meaning(view, [text.format("a") for text in StylePart().variations])  # type: ignore[attr-defined]
    # The best approximation of their meanings of this rank (Eckart and Young 1936).
    left = meanings - meanings @ directions.T @ directions
    values = torch.linalg.svdvals(meanings)
    assert float(left.square().sum()) == pytest.approx(float(values[10:].square().sum()), rel=1e-3)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), backbone.bound(concept) as view:
        network = view.component("model")
        original = network.take  # type: ignore[union-attr]
        network.take = lambda x, mask: seen.append(x) or original(x, mask)  # type: ignore[assignment,operator,union-attr,func-returns-value]
        backbone.read(view, [PROMPT])  # type: ignore[attr-defined]
        ids, _ = backbone.parts.lines([PROMPT], view.rows)  # type: ignore[attr-defined]
        style, content = (torch.isin(ids, torch.tensor(view.rows[n]))[0] for n in (style_name("<me>"), "<me>"))
    assert int(style.sum()) == int(content.sum()) == 4
    assert float((seen[0][0, style] @ directions.T).abs().max()) < 1e-4
    assert float((seen[0][0, content] @ directions.T).abs().max()) > 0.1


def test_memories_are_seen_at_their_scales_where_their_word_is_said() -> None:
    backbone, concept = tiny("var"), learnt(2)
    content, style = concept.codes
    tensors = {id(c): [c.tensors[k].requires_grad_() for k in ("keys", "values")] for c in concept.codes}

    def reaches(prompt: str, scale: int) -> tuple[bool, bool]:
        """Whether the error of a scale depends on (the content's, the style's) memory."""
        with backbone.bound(concept) as view:
            error = view.attempt(pictures(backbone, 1), rng=Random(0), prompts=[prompt]).error[0, scale == LEVELS]
        every = [t for c in (content, style) for t in tensors[id(c)]]
        found = torch.autograd.grad(error.sum(), every, allow_unused=True)
        reached = [g is not None and float(g.abs().sum()) > 0 for g in found]
        return reached[0], reached[2]

    try:
        assert reaches(PROMPT, 0) == (False, True)
        assert reaches(PROMPT, 1)[0]
        assert reaches("a <me>", 1) == (True, False)
        assert reaches("in <me>.style style", 0) == (False, True)
        assert reaches("in <me>.style style", 1)[0] is False
    finally:
        for code in concept.codes:
            code.tensors = {key: value.detach() for key, value in code.tensors.items()}


def test_learning_explains_style_and_content() -> None:
    before, after = explained(learnt(1, 0.0)), explained(learnt(60))
    for scales in split_scales(3):
        mask = torch.isin(LEVELS, torch.tensor(scales))
        assert after[mask].mean() < before[mask].mean() - 0.1


def test_content_and_style_are_said_alone_or_together(tmp_path: Path) -> None:
    backbone, concept = tiny("var"), learnt(2)

    def make(prompt: str, which: Concept = concept) -> torch.Tensor:
        return generate(backbone, [which], Target(prompt=prompt, n=1), seed=0)

    made = [make(p) for p in (PROMPT, "a photo of a <me>", "a dog in <me>.style style")]
    assert all(not torch.equal(made[i], made[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    loaded = Concept.load(concept.save(tmp_path / "concept.safetensors"))
    assert torch.equal(make(PROMPT, loaded), made[0])
    again = invert(backbone, pictures(backbone, 1), RECIPE.with_overrides(steps=2, lr=0.05), InvertSettings())
    assert all(
        torch.equal(a.tensors[k], b.tensors[k])
        for a, b in zip(again.codes, concept.codes, strict=True)
        for k in a.tensors
    )


def test_style_of_one_picture_and_content_of_another() -> None:
    backbone = tiny("var")
    one, two = learnt(2), learnt(3).renamed("<you>")
    prompt = "a photo of a <me> object in <you>.style style"
    with backbone.bound(one, two) as view:
        assert len({*view.rows["<me>"], *view.rows["<you>.style"]}) == 8
    made = generate(backbone, [one, two], Target(prompt=prompt, n=1), seed=0)
    assert not torch.equal(made, generate(backbone, [one], Target(prompt=PROMPT, n=1), seed=0))


def test_what_makes_no_sense_is_refused() -> None:
    assert [family for family in FAMILIES if recipe_refusal(type(tiny(family)), RECIPE) is None] == ["var"]
    assert "scale by scale" in (refusal(type(tiny("emu3")), RECIPE.stages) or "")
    backbone = tiny("var")
    alone = Recipe("t", (Stage((StylePart(),), Optimize(steps=1)),), scheme="", cite="")
    with pytest.raises(UserError, match="stands beside its content"):
        invert(backbone, pictures(backbone, 1), alone, InvertSettings())
    turns = dataclasses.replace(Optimize(), turns=(("scale-style",),))
    assert "its turns name 'scale-style'" in (refusal(type(backbone), [Stage((ContentPart(),), turns)]) or "")
