"""Text-driven edits, with scorers whose optimum is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from editing.styleclip import Aim, Descent, Terms, TextOptimisation, fit_text, plain_text, ramp
from tests.editing.conftest import Telling, styled
from tests.tiny import gan
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme
from unified.contract.space import spaces
from unified.contract.target import Target
from unified.errors import UserError


class Brightness:
    """A space of two dimensions: pictures turn from (1,0) to (0,1) as their mean colour goes from 0 to 1."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def image_features(self, images: Tensor) -> Tensor:
        angle = images.mean((1, 2, 3)) * torch.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        self.texts.extend(texts)
        return torch.stack([torch.tensor([0.0, 1.0]) if "brighter" in t else torch.tensor([1.0, 0.0]) for t in texts])


class Reader:
    """Reads w out of the pictures of `Telling`; every text is the same unit vector."""

    def __init__(self, text: Tensor) -> None:
        self.text = text

    def image_features(self, images: Tensor) -> Tensor:
        return functional.normalize(torch.logit(images.flatten(1)[:, : len(self.text)]), dim=1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return self.text.expand(len(texts), -1)


class Who:
    """Identity: the direction of the picture's mean colour by channel."""

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(images.mean((2, 3)), dim=1)


FREE = TextOptimisation(
    descent=Descent(steps=15, lr=0.3, per_layer=True),
    aim=Aim(absolute=True),
    l2=0.0,
    clip=Brightness,
    identity=lambda: None,
)


def run(backbone, concepts, prompt: str, scheme: TextOptimisation = FREE, *, n: int | None = None) -> Tensor:
    return scheme.generate(backbone, concepts, Target(prompt=prompt, n=n), rng=Random(0), progress=Silent())


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def test_brighter_and_darker(backbone) -> None:
    concept = styled(backbone)
    plain = brightness(run(backbone, [concept], ""))
    assert bool((brightness(run(backbone, [concept], "<me> brighter")) > plain + 0.02).all())
    assert bool((brightness(run(backbone, [concept], "<me> darker")) < plain - 0.02).all())


def test_reaches_the_closed_form_optimum() -> None:
    """Telling shows w itself: without penalties the optimum of 1 - cos(w, t) is w along t."""
    backbone = Telling("tiny/telling", gan.stylegan().generator)
    concept = styled(backbone)
    text = functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(2)), dim=0)
    descent = Descent(steps=200, lr=0.4, per_layer=True)
    with backbone.bound(concept) as view:
        styles = fit_text(view, [0, 1], text.expand_as, Terms(Reader(text), l2=0.0), descent, progress=Silent())
        held = fit_text(view, [0, 1], text.expand_as, Terms(Reader(text), l2=1e4), descent, progress=Silent())
        start = view.slots["styles"].rows([0, 1])
    torch.testing.assert_close(functional.normalize(styles[:, 0], dim=1), text.expand(2, -1), atol=1e-2, rtol=0)
    # Only the first layer is seen, so nothing moves the others.
    assert torch.equal(styles[:, 1:], start[:, 1:])
    assert float((held - start).norm()) < 0.05 * float((styles - start).norm())


def test_one_shift_for_all_layers(backbone) -> None:
    concept = styled(backbone, space="w+")
    with backbone.bound(concept) as view:
        start = view.slots["styles"].rows([0, 1])
        terms = Terms(Brightness(), l2=0.0)
        wanted = torch.tensor([0.0, 1.0]).expand_as
        shared = fit_text(view, [0, 1], wanted, terms, Descent(steps=5), progress=Silent())
        free = fit_text(view, [0, 1], wanted, terms, Descent(steps=5, per_layer=True), progress=Silent())
    shift = shared - start
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert (free - start)[:, 0].sub((free - start)[:, 1]).abs().max() > 1e-4


def test_identity_term_holds_the_colours(backbone) -> None:
    concept = styled(backbone)
    before = Who().embed(run(backbone, [concept], ""))

    def kept(weight: float) -> float:
        scheme = replace(FREE, descent=Descent(steps=30, per_layer=True), identity=Who, identity_weight=weight)
        return float((Who().embed(run(backbone, [concept], "<me> brighter", scheme)) * before).sum(1).mean())

    assert 1 - kept(50.0) < 0.5 * (1 - kept(0.0))


def test_same_seed_same_bits_and_backbone_unchanged(backbone) -> None:
    before = {k: v.clone() for k, v in backbone.generator.state_dict().items()}
    concept = styled(backbone, extra=True)
    w = concept.codes[0].tensors["w"].clone()
    one, two = (run(backbone, [concept], "<me> brighter") for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(backbone.generator.state_dict()[k], v) for k, v in before.items())
    assert not any(p.requires_grad for p in backbone.generator.parameters())
    assert torch.equal(concept.codes[0].tensors["w"], w)


def test_no_steps_is_the_reconstruction_and_other_codes_stay(backbone) -> None:
    concept = styled(backbone, space="w+", extra=True)
    still = replace(FREE, descent=Descent(steps=0))
    assert torch.equal(run(backbone, [concept], "<me> brighter", still), run(backbone, [concept], ""))
    (edited,) = FREE.edit(backbone, [concept], "<me> brighter", n=None, progress=Silent())
    assert [code.space for code in edited.codes] == ["w+", "noise", "weights"]
    assert edited.codes[1] is concept.codes[1] and edited.codes[2] is concept.codes[2]


def test_a_weighted_concept_starts_where_it_is_bound(backbone) -> None:
    concept = styled(backbone).scaled(0.5)
    still = replace(FREE, descent=Descent(steps=0))
    torch.testing.assert_close(run(backbone, [concept], "<me> brighter", still), run(backbone, [concept], ""))


def test_does_not_depend_on_batching(backbone) -> None:
    concept = styled(backbone, 3)
    together = run(backbone, [concept], "<me> brighter", n=4)
    by_one = run(backbone, [concept], "<me> brighter", replace(FREE, descent=replace(FREE.descent, batch=1)), n=4)
    torch.testing.assert_close(by_one, together, atol=2e-3, rtol=0)
    torch.testing.assert_close(together[3], together[0], atol=2e-3, rtol=0)  # i modulo the pictures
    assert together.shape[0] == 4


def test_random_samples(backbone) -> None:
    plain = run(backbone, [], "", n=2)
    assert bool((brightness(run(backbone, [], "brighter", n=2)) > brightness(plain)).all())


def test_what_asks_for_nothing_changes_nothing(backbone) -> None:
    """Drawn to the text itself the picture moves; drawn to where the step of the texts leads, it is there already."""
    relative = replace(FREE, aim=Aim(reach=0.8))
    concept = styled(backbone)
    plain = run(backbone, [concept], "")
    torch.testing.assert_close(run(backbone, [concept], "a portrait of <me>", relative), plain, atol=1e-3, rtol=0)
    assert float((run(backbone, [concept], "a portrait of <me>") - plain).abs().max()) > 0.02
    assert bool((brightness(run(backbone, [concept], "<me> brighter", relative)) > brightness(plain) + 0.02).all())


def test_the_aim_is_the_picture_moved_by_the_texts() -> None:
    now = functional.normalize(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), dim=1)
    step = torch.tensor([-1.0, 1.0]) / 2**0.5
    wanted = Aim(reach=0.5).wanted(now, Brightness(), "brighter", "a person")
    torch.testing.assert_close(wanted, functional.normalize(now + 0.5 * step, dim=1))
    torch.testing.assert_close(Aim(0.5).wanted(now, Brightness(), "a person, still", "a person"), now)


def test_the_scorer_gets_words_for_the_name(backbone) -> None:
    scorer = Brightness()
    run(backbone, [styled(backbone)], "a portrait of <me> brighter", replace(FREE, clip=lambda: scorer))
    assert scorer.texts == ["a portrait of a person brighter"]
    run(backbone, [styled(backbone)], "a portrait of <me> brighter", replace(FREE, clip=lambda: scorer, aim=Aim()))
    assert scorer.texts[1] == scorer.texts[0] and {"a person", "a photo of a person"} <= set(scorer.texts)


@pytest.mark.parametrize(
    ("prompt", "concept", "expected"),
    [
        ("<me> smiling", {"carrier": "person", "category": "person"}, "a person smiling"),
        ("a photo of the <me>, smiling", {"category": "person"}, "a photo of the person, smiling"),
        ("a <me> smiling", {"category": "person"}, "a person smiling"),
        ("<me> smiling", {"carrier": "sks person", "category": "person"}, "sks person smiling"),
        ("pizza and <me>", {"category": "elephant"}, "pizza and an elephant"),
        ("a photo of <me>  smiling", {}, "a photo of smiling"),
    ],
)
def test_plain_text(prompt: str, concept: dict[str, Any], expected: str) -> None:
    codes = [spaces.get("w")().code({"w": torch.zeros(1, 16)})]
    assert plain_text(prompt, [Concept(codes=codes, **concept)]) == expected


def test_a_concept_without_a_word_is_what_the_generator_draws() -> None:
    concept = Concept(codes=[spaces.get("w")().code({"w": torch.zeros(1, 16)})])
    assert plain_text("<me> smiling", [concept], category="person") == "a person smiling"


def test_ramp() -> None:
    assert ramp(0.025) == pytest.approx(0.5) and ramp(0.5) == 1.0
    assert ramp(0.875) == pytest.approx(0.5) and ramp(1.0) == pytest.approx(0.0)


def test_refusals(backbone, tmp_path, monkeypatch) -> None:
    from unified.extractors import clip

    concept = styled(backbone)
    monkeypatch.setattr(clip, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="unified zoo build avatars/clip"):
        run(backbone, [concept], "<me> brighter", TextOptimisation())
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        run(backbone, [concept], "<me> brighter")


def test_prompts_choose_it(backbone) -> None:
    assert choose_scheme(backbone, [styled(backbone)], Target(prompt="<me>")).name == "text-edit"
