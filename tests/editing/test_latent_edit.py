"""The latent-edit scheme on a tiny StyleGAN."""

from __future__ import annotations

import pytest
import torch

from editing.directions import Directions
from editing.edits import edit
from tests.editing.conftest import styled
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.space import spaces
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate

EDITS = {"smile": 2.0, "glasses": -1.0}


def weights_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in backbone.components["generator"].state_dict().items()}


def draw(backbone: Backbone, concepts: list[Concept], edits=None, *, seed: int = 0, **target) -> torch.Tensor:
    return generate(backbone, concepts, Target(edits=edits or {}, **target), seed=seed, scheme="latent-edit")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_moves_by_strength_times_unit(backbone, known: Directions, space: str) -> None:
    concept = styled(backbone, space=space)
    moved = edit(backbone, concept, EDITS)
    step = 2 * 0.5 * known.items["mouth=smile"].vector + 0.25 * known.items["glasses=none"].vector
    assert moved.codes[0].space == space
    torch.testing.assert_close(moved.codes[0].tensors["w"], concept.codes[0].tensors["w"] + step)
    with backbone.bound() as view:
        w = moved.codes[0].tensors["w"]
        styles = w if w.ndim == 3 else w.unsqueeze(1).expand(-1, backbone.style_shape()[0], -1)
        expected = backbone.render(view, styles).clamp(0, 1)
    torch.testing.assert_close(draw(backbone, [concept], EDITS), expected)


def test_layer_range_makes_w_plus(backbone, known) -> None:
    concept = styled(backbone)
    moved = edit(backbone, concept, {"smile@1-2": 1.0})
    w = moved.codes[0].tensors["w"]
    assert moved.codes[0].space == "w+" and w.shape == (2, *backbone.style_shape())
    assert torch.equal(w[:, 0], concept.codes[0].tensors["w"])
    assert not torch.equal(w[:, 1], concept.codes[0].tensors["w"])


@pytest.mark.parametrize("space", ["w", "w+"])
def test_zero_strength_is_the_reconstruction_bit_for_bit(backbone, known, space: str) -> None:
    concept = styled(backbone, space=space, extra=True)
    with backbone.bound(concept) as view:
        plain = view.sample(Target(), rng=None)
    assert torch.equal(draw(backbone, [concept]), plain)
    assert torch.equal(draw(backbone, [concept], {"smile": 0.0, "glasses": 0.0}), plain)
    assert not torch.equal(draw(backbone, [concept], EDITS), plain)


def test_edits_commute(backbone, known) -> None:
    concept = styled(backbone)
    flipped = dict(reversed(EDITS.items()))
    assert torch.equal(draw(backbone, [concept], EDITS), draw(backbone, [concept], flipped))
    one = edit(backbone, edit(backbone, concept, {"smile": 2.0}), {"glasses": -1.0})
    two = edit(backbone, concept, EDITS)
    torch.testing.assert_close(one.codes[0].tensors["w"], two.codes[0].tensors["w"])
    back = edit(backbone, two, {name: -value for name, value in EDITS.items()})
    torch.testing.assert_close(back.codes[0].tensors["w"], concept.codes[0].tensors["w"])


def test_other_codes_stay_bound(backbone, known) -> None:
    """Tuned weights and noise maps are those of the concept, the same objects."""
    concept = styled(backbone, extra=True)
    moved = edit(backbone, concept, EDITS)
    assert [code.space for code in moved.codes] == ["w", "noise", "weights"]
    assert moved.codes[1] is concept.codes[1] and moved.codes[2] is concept.codes[2]
    images = draw(backbone, [concept], EDITS)
    for dropped in (1, 2):
        fewer = concept.with_codes([c for i, c in enumerate(concept.codes) if i != dropped])
        assert not torch.allclose(draw(backbone, [fewer], EDITS), images, atol=1e-3)


def test_backbone_is_unchanged_and_same_seed_same_bits(backbone, known) -> None:
    before = weights_of(backbone)
    concept = styled(backbone, extra=True)
    w = concept.codes[0].tensors["w"].clone()
    assert torch.equal(draw(backbone, [concept], EDITS), draw(backbone, [concept], EDITS))
    with pytest.raises(UserError):
        draw(backbone, [concept], {"tail": 1.0})
    after = weights_of(backbone)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(concept.codes[0].tensors["w"], w)


def test_weight_of_the_concept_spares_the_edit(backbone, known) -> None:
    """Binding draws w to the mean by the weight; the edit is added after that."""
    concept = styled(backbone)
    mean, _ = backbone.style_statistics()
    half = concept.scaled(0.5)
    step = known.shift("smile", 1)[0]
    effective = mean + 0.5 * (concept.codes[0].tensors["w"] - mean) + step
    expected = concept.with_codes([spaces.get("w")().code({"w": effective})])
    torch.testing.assert_close(draw(backbone, [half], {"smile": 1.0}), draw(backbone, [expected]))
    with pytest.raises(UserError, match="weight 0"):
        draw(backbone, [concept.scaled(0.0)], {"smile": 1.0})


def test_random_samples_can_be_edited(backbone, known) -> None:
    plain = generate(backbone, [], Target(n=3), seed=4)
    tiny = draw(backbone, [], {"smile": 1e-7}, seed=4, n=3)
    torch.testing.assert_close(tiny, plain)  # the faces of the seed, moved by next to nothing
    moved = draw(backbone, [], {"smile": 2.0}, seed=4, n=3)
    assert not torch.allclose(moved, plain, atol=1e-3)
    torch.testing.assert_close(draw(backbone, [], {"smile": 2.0}, seed=4, n=1), moved[:1])
    assert torch.equal(draw(backbone, [], {"smile": 0.0}, seed=4, n=3), plain)
    none = draw(backbone, [], {"smile": 2.0}, seed=4, n=2, sampling={"truncation": 0.0})
    torch.testing.assert_close(none[0], none[1])


def test_tuned_weights_without_styles_edit_samples(backbone, known) -> None:
    tuned = styled(backbone, extra=True)
    weights = tuned.with_codes([tuned.codes[2]])
    with_weights = draw(backbone, [weights], {"smile": 1.0}, seed=1, n=2)
    assert not torch.allclose(with_weights, draw(backbone, [], {"smile": 1.0}, seed=1, n=2), atol=1e-3)


def test_pictures_repeat_the_concepts(backbone, known) -> None:
    concept = styled(backbone, 2)
    images = draw(backbone, [concept], EDITS, n=5)
    torch.testing.assert_close(images[4], images[0])
    torch.testing.assert_close(images[3], images[1])
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_chosen_for_edits_and_for_nothing(backbone, known) -> None:
    concept = styled(backbone)
    target = Target(edits=EDITS)
    assert torch.equal(generate(backbone, [concept], target), draw(backbone, [concept], EDITS))
    assert torch.equal(generate(backbone, [concept], Target()), draw(backbone, [concept]))


def test_concepts_without_styles_are_refused(backbone, known) -> None:
    with pytest.raises(UserError, match="no style vectors"):
        edit(backbone, Concept(codes=[Code("weights", {"x": torch.zeros(1)})]), EDITS)
