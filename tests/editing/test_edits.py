"""Edits as objects: written, stored, composed, and applied to concepts of every style space."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editing.directions import Direction, Directions
from editing.edits import edit
from editing.paths import Shift
from tests.editing.conftest import styled
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import spaces
from unified.edits import Asked, Edit, Step
from unified.errors import UserError


def test_reading_and_writing() -> None:
    change = Edit.read("smile +2 & mouth=smile|glasses@4-7 = -1.5 & sefa:coarse-0 0.5")
    assert change.steps == (
        Step("smile", 2.0),
        Step("mouth=smile", -1.5, (4, 7), ("glasses",)),
        Step("sefa:coarse-0", 0.5),
    )
    assert Edit.read(str(change)) == change
    assert Edit.of(change.strengths) == change
    assert Edit.read("smile=2 & smile=1").strengths == {"smile": 3.0}
    assert change.scaled(-2).strengths["smile"] == -4.0
    assert (Edit.read("a 1") & Edit.read("b 2")).strengths == {"a": 1.0, "b": 2.0}
    assert Edit.read("styleclip:a person with glasses 3").steps == (Step("styleclip:a person with glasses", 3.0),)


@pytest.mark.parametrize("text", ["", "smile", "smile +2 &", "2", "smile two", "@2 1", "smile| 1", "a@2-1 1", "a@ 1"])
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError):
        Edit.read(text)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    change = Edit.read("smile|glasses@1-3 +2 & skin=pale -0.25")
    path = change.save(tmp_path / "smile.json")
    assert Edit.load(path) == change and path.stat().st_size < 400
    data = json.loads(path.read_text())
    for broken in (
        {**data, "unified-edit": 99},
        {"steps": []},
        {**data, "steps": [{"direction": 3, "strength": 1}]},
        {**data, "steps": [{"direction": "a", "strength": "much"}]},
        {**data, "steps": [{"direction": "a", "strength": 1, "layers": [3, 1]}]},
        {**data, "steps": [{"direction": "a", "strength": float("nan")}]},
        [1],
    ):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(UserError):
            Edit.load(tmp_path / "broken.json")
    with pytest.raises(UserError, match="no stored edit"):
        Edit.load(tmp_path / "absent.json")


def test_an_edit_and_its_opposite(backbone, known) -> None:
    concept = styled(backbone, space="w+", extra=True)
    change = Edit.read("smile@1-3 +2 & glasses -1")
    there = edit(backbone, concept, change.strengths)
    assert not torch.equal(there.codes[0].tensors["w"], concept.codes[0].tensors["w"])
    back = edit(backbone, there, change.scaled(-1).strengths)
    torch.testing.assert_close(back.codes[0].tensors["w"], concept.codes[0].tensors["w"])


def test_asked() -> None:
    assert Asked.read("a|b|c@4-7") == Asked("a", ("b", "c"), "4-7")
    assert Asked.read("a@2").range(3) == (2, 2) and Asked.read("a").range(3) is None
    for text in ("a@3", "a@2-1", "a@x", "a@"):
        with pytest.raises(UserError, match="0-2"):
            Asked.read(text).range(3)


# --- style channels ---


def channel_directions(backbone) -> Directions:
    """One direction of style channels, a random one, and one of w."""
    sizes = backbone.style_channels()
    vector = torch.nn.functional.normalize(torch.randn(sum(sizes.values())), dim=0)
    items = {
        "glow=on": Direction(vector, 2.0, channels=sizes),
        "tint=on": Direction(torch.nn.functional.normalize(torch.randn(16), dim=0), 0.5),
    }
    return Directions(items, backbone.id, backbone.fingerprint)


def shown(backbone, concept) -> torch.Tensor:
    """The concept's pictures and channels [n, all channels]."""
    with torch.no_grad(), backbone.bound(concept) as view:
        return backbone._render_rows(view, range(2))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_channel_directions_move_the_channels_of_any_concept(backbone, space: str) -> None:
    """Independent: the layers' affine biases moved by the same amount, everything else as it is."""
    directions = channel_directions(backbone)
    concept = styled(backbone, space=space, extra=True)
    moved = edit(backbone, concept, {"glow=on": 1.5}, directions=directions)
    assert [code.space for code in moved.codes] == ["s", "noise", "weights"]
    step = 1.5 * directions.items["glow=on"].shift(8)
    changed = type(backbone)("changed", copy.deepcopy(backbone.generator))
    for (layer, size), part in zip(
        backbone.style_channels().items(), step.split(list(backbone.style_channels().values())), strict=True
    ):
        assert len(part) == size
        changed.generator.get_parameter(f"synthesis.{layer}.affine.bias").data.add_(part)
    assert not torch.allclose(shown(backbone, moved), shown(backbone, concept), atol=1e-3)
    torch.testing.assert_close(shown(backbone, moved), shown(changed, concept), rtol=1e-4, atol=1e-4)


def test_zero_channels_reconstruct(backbone) -> None:
    concept = styled(backbone, extra=True)
    moved = edit(backbone, concept, {"glow=on": 1e-9}, directions=channel_directions(backbone))
    torch.testing.assert_close(shown(backbone, moved), shown(backbone, concept), rtol=1e-5, atol=1e-5)


def test_steps_in_w_and_in_channels_together_and_in_any_order(backbone) -> None:
    directions = channel_directions(backbone)
    concept = styled(backbone, space="w+")
    tint, glow = {"tint=on": 2.0}, {"glow=on": -1.0}

    def moved(*steps: dict[str, float]) -> Concept:
        found = concept
        for step in steps:
            found = edit(backbone, found, step, directions=directions)
        return found

    together, w_first, s_first = moved({**tint, **glow}), moved(tint, glow), moved(glow, tint)
    for other in (w_first, s_first):
        for layer, value in together.codes[0].tensors.items():
            torch.testing.assert_close(other.codes[0].tensors[layer], value, rtol=1e-4, atol=1e-4)


def test_layer_ranges_of_channels(backbone) -> None:
    directions = channel_directions(backbone)
    sizes = list(backbone.style_channels().values())
    part = directions.shift("glow=on@1-2", 8).split(sizes)
    whole = directions.shift("glow=on", 8).split(sizes)
    for place, (some, all_) in enumerate(zip(part, whole, strict=True)):
        assert torch.equal(some, all_) if place in (1, 2) else not some.any()
    with pytest.raises(UserError, match=f"0-{len(sizes) - 1}"):
        directions.shift(f"glow=on@{len(sizes)}", 8)
    with pytest.raises(UserError, match="leave each other alone"):
        directions.shift("glow=on|tint=on", 8)


def test_weight_of_the_concept_spares_the_channels(backbone) -> None:
    directions = channel_directions(backbone)
    half = styled(backbone).scaled(0.5)
    moved = edit(backbone, half, {"glow=on": 1.0}, directions=directions)
    mean, _ = backbone.style_statistics()
    w = mean + 0.5 * (half.codes[0].tensors["w"] - mean)
    whole = half.scaled(2.0).with_codes([half.codes[0].with_tensors({"w": w})])
    expected = edit(backbone, whole, {"glow=on": 1.0}, directions=directions)
    torch.testing.assert_close(shown(backbone, moved), shown(backbone, expected), rtol=1e-4, atol=1e-4)


def test_shift_is_empty_for_zeros(backbone) -> None:
    directions = channel_directions(backbone)
    assert directions.total({"glow=on": 0.0, "tint=on": 0.0}, 8) is None
    found = directions.total({"glow=on": 1.0}, 8)
    assert isinstance(found, Shift) and found.styles is None and found.channels is not None


@pytest.mark.parametrize("space", ["z", "p"])
def test_concepts_of_other_style_spaces(backbone, known, space: str) -> None:
    """Independent: the style vectors that the code stands for, moved as a w+ code."""
    chosen = spaces.get(space)()
    reference = Reference(torch.rand(2, 3, 32, 32))
    with torch.no_grad(), backbone.bound() as view:
        code = chosen.initial(view, reference, rng=Random(0))
        code = code.map(lambda t: t + 0.3 * torch.randn(t.shape))
    concept = Concept(codes=[code], name="<me>", carrier="person", category="person")
    with torch.no_grad(), backbone.bound(concept) as view:
        styles = view.slots["styles"].read()
    moved = edit(backbone, concept, {"smile": 2.0})
    assert [code.space for code in moved.codes] == ["w+"]
    torch.testing.assert_close(moved.codes[0].tensors["w"], styles + 2 * known.shift("smile", 8))


def test_features_stay_while_styles_move(backbone, known) -> None:
    """F & w+: the replaced features are kept, only the layers after them see the edit (Kang et al. 2021)."""
    concept = styled(backbone, 2, space="w+")
    with torch.no_grad(), backbone.bound(concept) as view:
        features = spaces.get("f")().initial(view, Reference(torch.rand(2, 3, 32, 32)), rng=Random(0))
    whole = concept.with_codes([*concept.codes, features])
    early = edit(backbone, whole, {"smile@0-1": 3.0})
    late = edit(backbone, whole, {"smile@5-7": 3.0})
    assert early.codes[1] is features
    torch.testing.assert_close(shown(backbone, early), shown(backbone, whole))
    assert not torch.allclose(shown(backbone, late), shown(backbone, whole), atol=1e-3)


def test_channels_of_a_concept_inverted_there(backbone) -> None:
    directions = channel_directions(backbone)
    concept = styled(backbone, 2)
    with torch.no_grad(), backbone.bound(concept) as view:
        code = spaces.get("s")().initial(view, Reference(torch.rand(2, 3, 32, 32)), rng=Random(0))
    by_name = dict(sorted(code.tensors.items()))  # as a file has them
    assert list(by_name) != list(code.tensors)
    inverted = concept.with_codes([replace(code, tensors=by_name)])
    for name in ("glow=on", "tint=on"):
        one, two = (edit(backbone, c, {name: 2.0}, directions=directions) for c in (inverted, concept))
        torch.testing.assert_close(shown(backbone, one), shown(backbone, two), rtol=1e-3, atol=1e-4)
