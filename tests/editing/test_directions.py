"""Direction files, names, and finding known directions again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from editing import direction_file as module
from editing.direction_file import directions_for, load_directions, save_directions
from editing.directions import Direction, Directions
from editing.find.build import build
from editing.find.finder import finders
from editing.find.interfacegan import FindSettings, find_directions
from editing.find.judging import effect, judge, log_odds
from editing.latent.names import aliases
from editing.paths import Shift
from tests.editing.conftest import LinearClassifier, Telling, units
from tests.tiny import gan
from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.captions import phrase
from unified.contract.random import Random
from unified.errors import UserError
from unified.zoo.training import BuildSettings

SETTINGS = FindSettings(samples=6000, fractions=(0.1, 0.1), batch=500)


@pytest.fixture(scope="module")
def found() -> tuple[Telling, LinearClassifier, Directions]:
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, b, _ = units(3)
    classifier = LinearClassifier(a, b, backbone.style_statistics()[0])
    return backbone, classifier, find_directions(backbone, classifier, extractor="linear", settings=SETTINGS)


def test_known_directions_are_found(found) -> None:
    backbone, classifier, directions = found
    for name, truth in classifier.normals.items():
        on, off = directions.items[f"{name}=on"], directions.items[f"{name}=off"]
        assert float(on.vector @ truth) > 0.95
        assert float(off.vector @ truth) < -0.95
        assert on.accuracy > 0.98
        assert on.share + off.share == pytest.approx(1.0, abs=1e-3) and 0.3 < on.share < 0.7
    assert directions.fingerprint == backbone.fingerprint and directions.extractor == "linear"
    assert set(directions.left_out) == {"ghost=never", "ghost=always"}


def test_strength_one_is_one_deviation_of_samples(found) -> None:
    backbone, classifier, directions = found
    latents, _ = judge(backbone, classifier, range(2000), rng=Random(9))
    for direction in directions.items.values():
        along = latents @ direction.vector
        shifted = (latents + direction.shift(1)[0]) @ direction.vector
        assert float((shifted - along).mean() / along.std()) == pytest.approx(1.0, rel=0.05)


def test_conditioned_direction_changes_the_other_score_less(found) -> None:
    """Closed form: moving along 'glow|tint' leaves <n_tint, w> for the found normal n_tint."""
    _, _, directions = found
    alone, kept = directions.shift("glow=on", 1)[0], directions.shift("glow=on|tint=on", 1)[0]
    other = directions.items["tint=on"].vector
    assert abs(float(alone @ other)) > 0.05
    assert abs(float(kept @ other)) < 1e-6
    assert kept.norm() == pytest.approx(float(alone.norm()), rel=1e-5)


def test_effect_of_moving(found) -> None:
    backbone, classifier, directions = found
    number, _ = backbone.style_shape()
    shift = directions.shift("glow=on", number)
    assert effect(backbone, classifier, Shift(4 * shift))["glow=on"] == 1.0
    assert effect(backbone, classifier, Shift(-4 * shift))["glow=on"] == 0.0
    plain = effect(backbone, classifier, None)
    assert 0.2 < plain["glow=on"] < 0.8 and plain["glow=on"] + plain["glow=off"] == 1.0


def test_finding_is_reproducible_and_batch_free() -> None:
    backbone = Telling("tiny/telling", gan.stylegan(seed=1).generator)
    a, b, _ = units(3)
    classifier = LinearClassifier(a, b, backbone.style_statistics()[0])
    small = FindSettings(samples=200, fractions=(0.1, 0.1), batch=200)
    one = find_directions(backbone, classifier, extractor="x", settings=small)
    two = find_directions(backbone, classifier, extractor="x", settings=small)
    assert all(torch.equal(one.items[k].vector, two.items[k].vector) for k in one.items)
    other = find_directions(backbone, classifier, extractor="x", settings=replace(small, batch=37))
    for name, direction in one.items.items():
        torch.testing.assert_close(other.items[name].vector, direction.vector, atol=1e-4, rtol=0)


def test_builder_writes_directions_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import unified.loading
    from unified.extractors import attributes

    backbone = Telling("avatars/stylegan2", gan.stylegan(seed=1).generator)
    a, b, _ = units(3)
    classifier = LinearClassifier(a, b, backbone.style_statistics()[0])
    kept = ("interfacegan", "centres", "sefa", "ganspace", "stylespace")  # what takes no training
    monkeypatch.setattr(finders, "_items", {name: finders.get(name) for name in kept})
    monkeypatch.setattr(unified.loading, "load", {"avatars/stylegan2": backbone}.__getitem__)
    monkeypatch.setattr(attributes, "load", lambda: classifier)
    build(BuildSettings(out=tmp_path / "out", work=tmp_path / "work", steps=1000, batch=500))
    loaded = load_directions(tmp_path / "out" / module.FILE, backbone)
    assert set(loaded.items) == {"glow=off", "glow=on", "tint=off", "tint=on"}
    assert loaded.samples == 1000 and loaded.extractor == "avatars/attributes"
    card = (tmp_path / "out" / "card.md").read_text()
    assert "| glow=on |" in card and "- ghost=never: 0.00 %" in card and "1,000 random samples" in card


def test_log_odds_closed_form() -> None:
    logits = torch.tensor([[1.0, 2.0, -0.5], [90.0, 0.0, -90.0]])
    p = logits[:1].softmax(1)
    torch.testing.assert_close(log_odds(logits)[:1], torch.log(p / (1 - p)))
    torch.testing.assert_close(log_odds(logits)[1], torch.tensor([90.0, -90.0, -180.0]))


# --- names ---


def test_aliases_follow_the_vocabulary() -> None:
    names = [f"{a}={v}" for a, values in ATTRIBUTES.items() for v in values]
    known = aliases(names)
    assert known["smile"] == ("mouth=smile", 1.0) and known["smiling"] == ("mouth=smile", 1.0)
    assert known["glasses"] == ("glasses=none", -1.0) and known["without glasses"] == ("glasses=none", 1.0)
    assert known["beard"] == ("facial_hair=none", -1.0) == known["facial hair"]
    assert known["blonde hair"] == ("hair_colour=blonde", 1.0) == known["blonde"]
    assert known["pale skin"] == ("skin=pale", 1.0)
    assert known["green background"] == ("background=green", 1.0)
    assert "black" not in known and "none" not in known  # several attributes have these values
    for name in names:
        attribute, _, value = name.partition("=")
        assert known.get(phrase(attribute, value), (name, 1.0)) == (name, 1.0)
        assert any(target == name for target, _ in known.values())


def test_aliases_do_not_depend_on_what_else_has_a_direction() -> None:
    assert "black" not in aliases(["clothes_colour=black"])
    assert aliases(["age=old"]) == {"old": ("age=old", 1.0)}  # another classifier's vocabulary


def test_find(known: Directions) -> None:
    assert known.find("mouth=smile") == ("mouth=smile", 1.0)
    assert known.find("Smile") == ("mouth=smile", 1.0)
    assert known.find(" pale_skin ") == ("skin=pale", 1.0)
    with pytest.raises(UserError, match=r"no direction 'smlie'.*nearest: .*smile"):
        known.find("smlie")


def test_shift_syntax(known: Directions) -> None:
    smile, glasses = known.items["mouth=smile"], known.items["glasses=none"]
    whole = known.shift("smile", 6)
    torch.testing.assert_close(whole, (0.5 * smile.vector).expand(6, -1))
    torch.testing.assert_close(known.shift("glasses", 6), -(0.25 * glasses.vector).expand(6, -1))
    part = known.shift("smile@2-3", 6)
    assert torch.equal(part[2:4], whole[2:4]) and not part[:2].any() and not part[4:].any()
    assert torch.equal(known.shift("smile@5", 6)[5], whole[5])
    kept = known.shift("smile | glasses | pale skin @ 0-1", 6)
    assert abs(float(kept[0] @ glasses.vector)) < 1e-6 and not kept[2:].any()
    for bad in ("smile@3-2", "smile@0-6", "smile@x", "smile@"):
        with pytest.raises(UserError, match="0-5"):
            known.shift(bad, 6)
    with pytest.raises(UserError, match="nothing is left"):
        known.shift("smile|smile", 6)


def test_total_adds_and_commutes_bit_for_bit(known: Directions) -> None:
    one = known.total({"smile": 2.0, "glasses": -1.0, "pale skin": 0.3}, 4)
    two = known.total({"pale skin": 0.3, "glasses": -1.0, "smile": 2.0}, 4)
    assert one is not None and two is not None and torch.equal(one.styles, two.styles)
    parts = [known.total({k: v}, 4).styles for k, v in (("smile", 2.0), ("glasses", -1.0), ("pale skin", 0.3))]
    torch.testing.assert_close(one.styles, sum(parts))
    assert known.total({}, 4) is None and known.total({"smile": 0.0}, 4) is None
    with pytest.raises(UserError, match="no direction"):
        known.total({"smile": 0.0, "tail": 0.0}, 4)
    with pytest.raises(UserError, match="finite"):
        known.total({"smile": math.nan}, 4)


# --- the file ---


def test_round_trip(known: Directions, backbone) -> None:
    again = directions_for(backbone)
    assert set(again.items) == {*known.items, *(f"interfacegan:{name}" for name in known.items)}
    for name, direction in known.items.items():
        assert torch.equal(again.items[name].vector, direction.vector)
        assert again.items[name].deviation == direction.deviation
    assert again.items["mouth=smile"].share == 0.1 and math.isnan(again.items["skin=pale"].share)
    assert (again.samples, again.extractor, again.left_out) == (10, "test", {"hair=bald": "not shown"})


def test_one_vector_for_each_layer(backbone, tmp_path: Path) -> None:
    number, width = backbone.style_shape()
    vector = torch.randn(number, width)
    items = {"glow=on": Direction(vector, 2.0)}
    path = save_directions(Directions(items, backbone.id, backbone.fingerprint), tmp_path / "d.safetensors")
    loaded = load_directions(path, backbone)
    torch.testing.assert_close(loaded.shift("glow=on", number), 2 * vector)
    with pytest.raises(UserError, match="all layers"):
        loaded.shift("glow=on|glow=on", number)


def test_embedded_directions_are_found_by_fingerprint(known, backbone, tmp_path, monkeypatch) -> None:
    weights = tmp_path / "weights"
    other = replace(known, fingerprint="0" * 16)
    save_directions(other, weights / "a" / module.FILE)
    save_directions(known, weights / "b" / module.FILE)
    monkeypatch.setattr(module, "WEIGHTS", weights)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "empty"))
    assert module.direction_file(backbone.fingerprint) == weights / "b" / module.FILE
    assert set(known.items) < set(directions_for(backbone).items)


def test_refusals(known: Directions, backbone, tmp_path: Path, monkeypatch) -> None:
    path = module.user_file(backbone.fingerprint)
    other = gan.stylegan(seed=7)
    with pytest.raises(UserError) as caught:
        load_directions(path, other)
    assert backbone.fingerprint in str(caught.value) and other.fingerprint in str(caught.value)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "none")
    with pytest.raises(UserError, match="unified edit --find"):
        directions_for(other)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    save_file({"x": torch.zeros(2)}, tmp_path / "plain.safetensors")
    for name in ("cut.safetensors", "plain.safetensors", "absent.safetensors"):
        with pytest.raises(UserError, match="no direction file"):
            load_directions(tmp_path / name, backbone)
    wrong = replace(known, items={"glow=on": Direction(torch.ones(3), 1.0)})
    with pytest.raises(UserError, match="shape"):
        load_directions(save_directions(wrong, tmp_path / "wrong.safetensors"), backbone)
