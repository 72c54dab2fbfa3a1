"""DeltaEdit: its form, what it learns from pictures alone, and that texts then move pictures their way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from editing.by_text import text_methods
from editing.deltaedit import DeltaEdits, TextPictureDelta, path_of
from editing.direction_file import directions_for
from editing.edits import edit
from editing.find import styleclip
from editing.find.channel_statistics import channels_from
from editing.find.deltaedit import (
    METHOD,
    Delta,
    DeltaSettings,
    delta_file,
    load_delta,
    save_delta,
    train_delta,
    user_file,
)
from editing.latent.delta import DeltaMapper, delta_loss
from editing.listing import AttributeDirections
from editing.paths import Here
from editing.rendering import render_shifted
from editing.styleclip_global import Wish
from editing.styles import channel_sizes, joined, sample_styles
from tests.editing.conftest import styled
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme
from unified.contract.target import Target
from unified.errors import UserError


class Colours:
    """Pictures by their mean colour, texts by its name: unit vectors of one space."""

    name = "colours"
    axes = {"red": [1.0, 0.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0, 0.0], "grey": [0.3, 0.3, 0.3, 0.8]}

    def image_features(self, images: Tensor) -> Tensor:
        mean = images.mean((2, 3))
        return functional.normalize(torch.cat([mean, torch.full_like(mean[:, :1], 0.5)], 1), dim=1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        rows = [next(axis for word, axis in self.axes.items() if word in text) for text in texts]
        return functional.normalize(torch.tensor(rows), dim=1)


@pytest.fixture(scope="module")
def backbone():
    return gan.stylegan()


@pytest.fixture(scope="module")
def delta(backbone) -> Delta:
    settings = DeltaSettings(samples=1000, steps=250, batch=64, lr=0.1)
    return train_delta(backbone, Colours(), name="colours", settings=settings, rng=Random(0), progress=Silent())


def test_form_and_loss() -> None:
    """Each group sees its own channels, the picture and the step; independent: loss of a step twice too long."""
    torch.manual_seed(0)
    mapper = DeltaMapper([3, 2], 4)
    s, i, d = torch.randn(5, 5), torch.randn(5, 4), torch.randn(5, 4)
    whole = mapper(s, i, d)
    other = mapper(torch.cat([s[:, :3], s[:, 3:] + 1], 1), i, d)
    assert whole.shape == (5, 5) and torch.equal(whole[:, :3], other[:, :3]) and not torch.equal(whole, other)
    assert not torch.allclose(mapper(s, i, -d), whole)
    wanted = torch.randn(6, 5)
    torch.testing.assert_close(delta_loss(2 * wanted, wanted), wanted.square().mean())
    torch.testing.assert_close(delta_loss(-wanted, wanted), 4 * wanted.square().mean() + 2)


def test_it_learned_steps_between_pictures(backbone, delta: Delta) -> None:
    """On pairs it never saw, the step it makes changes colours as the pair's do; a wrong step does not."""
    styles = sample_styles(backbone, range(200), truncation=1.0, rng=Random(0).child("fresh"))
    features = Colours().image_features(render_shifted(backbone, styles))
    way = functional.normalize(features[100:] - features[:100], dim=1)
    channels = channels_from(backbone, styles[:, 0])
    now = ((channels[:100] - delta.mean) / delta.deviation)[:, delta.places]
    wanted = ((channels[100:] - channels[:100]) / delta.deviation)[:, delta.places]
    found = delta.mapper(now, features[:100], way)
    wrong = delta.mapper(now, features[:100], way.roll(1, 0))
    right = functional.cosine_similarity(found, wanted, dim=1).mean()
    assert float(right) > 0.3 and float(right) > float(functional.cosine_similarity(wrong, wanted, dim=1).mean()) + 0.05


def test_texts_move_pictures_their_way(backbone, delta: Delta) -> None:
    """It was never shown a text: each one moves pictures along its own step, more than the other text does."""
    scorer = Colours()
    styles = sample_styles(backbone, range(100), truncation=1.0, rng=Random(0).child("fresh"))
    before = scorer.image_features(render_shifted(backbone, styles))

    def along(text: str, step_of: str, strength: float = 1.0) -> float:
        path = path_of(backbone, delta, scorer, Wish(f"a {text} face", "a grey face"))
        after = scorer.image_features(render_shifted(backbone, styles, lambda here: path.shift(here, strength)))
        step = functional.normalize(scorer.text_features([step_of]) - scorer.text_features(["grey"]), dim=1)
        return float(((after - before) @ step[0]).mean())

    for one, other in (("red", "green"), ("green", "red")):
        assert along(one, one) > along(other, one) + 0.02 and along(one, one) > 0.02
        assert along(one, one, -1.0) < 0


def test_layers_to_rgb_stay_and_relevance_holds_channels(backbone, delta: Delta, cache) -> None:
    sizes = channel_sizes(backbone)
    with backbone.bound(styled(backbone)) as view:
        here = Here(view)
        step = path_of(backbone, delta, Colours(), Wish("red", "grey")).shift(here, 2.0).channels
        effects = torch.zeros(sum(sizes.values()), 4)
        effects[5] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        values = styleclip.Effects(effects, torch.ones(len(effects)), "colours", "x")
        styleclip.save_effects(values, backbone, styleclip.user_file(backbone.fingerprint))
        held = path_of(backbone, delta, Colours(), Wish("red", "grey")).shift(here, 2.0).channels
    assert step is not None and held is not None
    for layer, part in zip(sizes, step.split(list(sizes.values()), dim=1), strict=True):
        assert bool(part.any()) == ("rgb" not in layer), layer
    assert held[0].nonzero().flatten().tolist() == [5] and torch.equal(held[:, 5], step[:, 5])


def test_edits_scheme_and_file(backbone, delta: Delta, cache, monkeypatch, tmp_path) -> None:
    scheme = TextPictureDelta(clip=Colours)
    concept, target = styled(backbone, 2, space="w+", extra=True), Target(prompt="a red <me>", source="grey")
    with pytest.raises(UserError, match="--find deltaedit"):
        scheme.generate(backbone, [concept], target, rng=Random(0), progress=Silent())
    save_delta(delta, backbone, user_file(backbone.fingerprint))
    path = delta_file(backbone.fingerprint)
    assert path is not None and (load_delta(path, backbone).scorer, load_delta(path, backbone).data[:5]) == (
        "colours",
        "pairs",
    )
    monkeypatch.setattr(text_methods, "_items", {METHOD: DeltaEdits(Colours)})
    (moved,) = scheme.edited(backbone, [concept], target, rng=Random(0), progress=Silent())
    assert [code.space for code in moved.codes] == ["s", "noise", "weights"]
    named = edit(backbone, concept, {"deltaedit:grey -> a red person": 1.0})
    for layer, value in named.codes[0].tensors.items():
        torch.testing.assert_close(moved.codes[0].tensors[layer], value)
    some = edit(backbone, concept, {"deltaedit:grey -> red@0-2": 1.0}, directions=directions_for(backbone))
    with torch.no_grad(), backbone.bound(concept) as view:
        before = backbone.channels_of(view, concept.codes[0].tensors["w"])
    changed = [not torch.equal(some.codes[0].tensors[layer], value) for layer, value in before.items()]
    assert any(changed[:3]) and not any(changed[3:])
    again = edit(backbone, moved, {"deltaedit:grey -> green": 0.5})  # and from style channels on
    assert not torch.equal(
        joined(again.codes[0].tensors, backbone.style_channels()),
        joined(moved.codes[0].tensors, backbone.style_channels()),
    )
    line = AttributeDirections().directions(backbone)["deltaedit:TEXT"]
    assert "by deltaedit, judged by colours on pairs of 1,000 random samples" in line
    with pytest.raises(UserError, match="deltaedit:NEUTRAL"):
        edit(backbone, concept, {"deltaedit:-> red": 1.0})
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="no direction file"):
        load_delta(tmp_path / "cut.safetensors", backbone)
    with pytest.raises(UserError, match="weights"):
        load_delta(path, gan.stylegan(seed=9))


def test_it_is_not_chosen_unasked(backbone) -> None:
    assert choose_scheme(backbone, [styled(backbone)], Target(prompt="<me>", source="x")).name == "text-global"
