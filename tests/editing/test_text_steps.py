"""Edits by text from a matrix: least squares in closed form, and a generator whose pictures tell their w."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import editing.text_steps as module
from editing.edits import edit
from editing.find.text_steps import (
    Steps,
    StepSettings,
    load_steps,
    measure_steps,
    save_steps,
    steps_file,
    user_file,
)
from editing.latent.regression import steps_matrix
from editing.styles import sample_styles
from editing.text_edit import TextEdit
from editing.text_steps import STRENGTH, TextStepEdits, TextSteps
from editing.wording import TEMPLATES, asked
from tests.editing.conftest import WIDTH, Telling, styled
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.target import Target
from unified.errors import UserError


class Reading:
    """A picture's features are the w that it tells, of no fixed length; "+3" is the third unit vector, with noise."""

    name = "reading"
    noise = 0.0

    def image_features(self, images: Tensor) -> Tensor:
        return torch.logit(images.flatten(1)[:, :WIDTH].double()).float()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        found = torch.zeros(len(texts), WIDTH)
        found[:, 0] = 1.0
        for row, text in zip(found, texts, strict=True):
            if "+" in text:
                row[int(text.split("+")[1])] = 1.0
            row[-1] = self.noise * (len(text) % 5 - 2)  # depends on the wording
        return functional.normalize(found, dim=1)


@pytest.fixture(scope="module")
def telling() -> Telling:
    return Telling("tiny/telling", gan.stylegan().generator)


@pytest.fixture(scope="module")
def matrix(telling: Telling) -> Tensor:
    settings = StepSettings(samples=1000, ridge=0.0, batch=250)
    return measure_steps(telling, Reading(), settings=settings, rng=Random(0), progress=Silent())


def test_least_squares_in_closed_form() -> None:
    """Styles that are linear in the features give back the map; the ridge shrinks each principal direction."""
    features = functional.pad(torch.eye(3).repeat(2, 1) * torch.tensor([[1.0]] * 3 + [[-1.0]] * 3), (0, 0))
    features = features * torch.tensor([2.0, 1.0, 1.0])
    plan = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, -1.0]])
    styles = features @ plan + torch.tensor([5.0, 6.0])
    torch.testing.assert_close(steps_matrix(features, styles, ridge=0.0), plan)
    shrunk = torch.tensor([[1 / 1.5], [0.25 / 0.75], [0.25 / 0.75]]) * plan  # variances 4/3, 1/3, 1/3; ridge 2/3
    torch.testing.assert_close(steps_matrix(features, styles, ridge=0.5), shrunk)
    pairs = [(i, j) for i in range(6) for j in range(6)]
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    noisy = styles + torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    by_pairs = torch.linalg.lstsq(features[second] - features[first], noisy[second] - noisy[first]).solution
    torch.testing.assert_close(steps_matrix(features, noisy, ridge=0.0), by_pairs, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="at least 2"):
        steps_matrix(features[:1], styles[:1], ridge=0.1)


def test_steps_of_a_generator_that_tells_its_w(telling: Telling, matrix: Tensor) -> None:
    """Features are w itself: the matrix is the identity where samples vary."""
    sample = sample_styles(telling, range(100), truncation=1.0, rng=Random(4))[:, 0]
    step = sample[1::2] - sample[::2]
    torch.testing.assert_close(step @ matrix, step, rtol=0.01, atol=0.01)


def test_a_prompt_moves_by_the_texts_step(telling: Telling, matrix: Tensor, cache) -> None:
    concept = styled(telling, space="w+")
    scheme = TextSteps(clip=Reading, strength=0.5)

    def moved(prompt: str) -> Tensor:
        (found,) = scheme.edited(telling, [concept], Target(prompt=prompt), rng=Random(0), progress=Silent())
        return found.codes[0].tensors["w"] - concept.codes[0].tensors["w"]

    with pytest.raises(UserError, match="--find text-steps"):
        moved("<me> +3")
    save_steps(Steps(matrix, "reading", "3 pictures"), telling, user_file(telling.fingerprint))
    features = Reading().text_features(["a person +3", "a person"])
    step = functional.normalize(features[0] - features[1], dim=0)
    expected = (0.5 * step @ matrix).expand(2, 8, -1)
    torch.testing.assert_close(moved("<me> +3"), expected, rtol=5e-3, atol=2e-3)
    assert not moved("a portrait of <me>").any() and not moved("<me>").any()
    again = load_steps(steps_file(telling.fingerprint), telling)  # type: ignore[arg-type]
    torch.testing.assert_close(again.matrix, matrix, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="weights"):
        load_steps(user_file(telling.fingerprint), gan.stylegan(seed=9))


def test_the_default_takes_what_is_prepared(telling: Telling, matrix: Tensor, cache) -> None:
    class Optimised(Exception):
        pass

    def scorer() -> Reading:
        raise Optimised

    scheme = TextEdit(steps=TextSteps(clip=Reading))
    scheme = replace(scheme, optimisation=replace(scheme.optimisation, clip=scorer))
    target = Target(prompt="<me> +3")
    with pytest.raises(Optimised):
        scheme.edited(telling, [styled(telling)], target, rng=Random(0), progress=Silent())
    save_steps(Steps(matrix, "reading", ""), telling, user_file(telling.fingerprint))
    found = scheme.edited(telling, [styled(telling)], target, rng=Random(0), progress=Silent())
    alone = scheme.steps.edited(telling, [styled(telling)], target, rng=Random(0), progress=Silent())
    assert torch.equal(found[0].codes[0].tensors["w"], alone[0].codes[0].tensors["w"])


def test_as_a_named_edit(telling: Telling, matrix: Tensor, cache, monkeypatch) -> None:
    assert TextStepEdits().maker(telling) is None
    save_steps(Steps(matrix, "reading", ""), telling, user_file(telling.fingerprint))
    monkeypatch.setattr(module.text_methods, "_items", {"text-steps": TextStepEdits(Reading)})
    concept = styled(telling, space="w+")
    named = edit(telling, concept, {"text-steps:a person -> a person +3": 2.0})
    scheme = TextSteps(clip=Reading, strength=2 * STRENGTH)
    (asked_for,) = scheme.edited(telling, [concept], Target(prompt="<me> +3"), rng=Random(0), progress=Silent())
    torch.testing.assert_close(named.codes[0].tensors["w"], asked_for.codes[0].tensors["w"], rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="no more than the neutral"):
        edit(telling, concept, {"text-steps:a person -> a photo of a person": 1.0})


def test_wording_alone_asks_for_nothing() -> None:
    scorer = Reading()
    scorer.noise = 0.05
    for template in TEMPLATES:
        assert not asked(scorer, template.format("a person"), "a person").any()
    step = asked(scorer, "a person +3", "a person")
    features = scorer.text_features([t.format("a person") for t in TEMPLATES])
    noise = (features - features.mean(0)).square().sum(1).mean()
    length = (scorer.text_features(["a person +3"])[0] - features).norm(dim=1).min()
    assert float(step.norm()) == pytest.approx(float(1 - noise / length**2), abs=1e-5) and int(step.argmax()) == 3
