"""Style channels: relevance in closed form, and planted channels found on a generator that shows its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backbones.stylegan.backbone import StyleGAN2
from editing.direction_file import load_directions, save_directions
from editing.directions import Directions
from editing.edits import edit
from editing.find.channel_statistics import channel_statistics, channels_from
from editing.find.judging import Judge
from editing.find.styleclip import (
    Effects,
    EffectSettings,
    effects_file,
    load_effects,
    measure_effects,
    save_effects,
    user_file,
)
from editing.find.stylespace import ChannelSettings, gradient_relevance, stylespace_directions
from editing.latent.styleclip import channel_effects, global_direction, text_direction
from editing.latent.stylespace import normalised_relevance
from editing.styleclip_global import GlobalDirections, Wish, direction_of
from editing.styles import joined, sample_styles
from tests.editing.conftest import styled
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.errors import UserError

GLOW, TINT = 3, 70  # channels that the classifier reads, in different layers


class Showing(StyleGAN2):
    """Writes all its style channels into its pictures, through a sigmoid."""

    def render(self, view, styles, noise=None):  # type: ignore[no-untyped-def]
        return self.render_channels(view, self.channels_of(view, styles), noise)

    def render_channels(self, view, channels, noise=None):  # type: ignore[no-untyped-def]
        flat = torch.sigmoid(joined(channels, self.style_channels()) / 4)
        flat = functional.pad(flat, (0, 3 * self.resolution**2 - flat.shape[1]), value=0.5)
        return flat.view(-1, 3, self.resolution, self.resolution)


def read(images: Tensor) -> Tensor:
    return 4 * torch.logit(images.flatten(1))


class ChannelClassifier:
    """ "glow=on" is read from one channel, "tint=on" from the opposite of another."""

    vocabulary: Mapping[str, tuple[str, ...]] = {"glow": ("off", "on"), "tint": ("off", "on")}

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        off = read(images)[:, : len(self.mean)] - self.mean
        columns = {"glow": off[:, GLOW], "tint": -off[:, TINT]}
        return {name: torch.stack([torch.zeros_like(column), 5 * column], 1) for name, column in columns.items()}


class ChannelClip:
    """A picture is its first channels, a text a channel's name and sign: "+3" is the third unit vector."""

    name = "channels"
    width = 40

    def image_features(self, images: Tensor) -> Tensor:
        return read(images)[:, : self.width]  # not of length 1: then its differences are exact

    def text_features(self, texts: Sequence[str]) -> Tensor:
        found = torch.zeros(len(texts), self.width)
        for row, text in zip(found, texts, strict=True):
            if text[0] in "+-":
                row[int(text[1:])] = float(f"{text[0]}1")
            else:
                row[-1] = 1.0
        return found


@pytest.fixture(scope="module")
def showing() -> Showing:
    return Showing("tiny/showing", gan.stylegan(seed=2).generator)


def test_normalised_relevance_in_closed_form() -> None:
    exemplars = torch.tensor([[1.0, 4.0, 2.0], [3.0, 4.0, 2.0]])
    mean, deviation = torch.tensor([0.0, 5.0, 0.0]), torch.tensor([2.0, 0.5, 0.0])
    relevance, sign = normalised_relevance(exemplars, mean, deviation)
    # First: delta 0.5 and 1.5: mean 1, deviation sqrt(0.5). Second: always -2: no spread, as relevant as can be.
    assert float(relevance[0]) == pytest.approx(2**0.5) and float(relevance[1]) > 1e6 and float(relevance[2]) == 0
    assert sign.tolist()[:2] == [1.0, -1.0]
    with pytest.raises(UserError, match="at least 2"):
        normalised_relevance(exemplars[:1], mean, deviation)


def test_statistics_of_channels(showing: Showing) -> None:
    rows = range(1500)
    mean, deviation = channel_statistics(showing, rows, rng=Random(1))
    whole = channels_from(showing, sample_styles(showing, rows, truncation=1.0, rng=Random(1))[:, 0])
    torch.testing.assert_close(mean, whole.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deviation, whole.std(0, correction=0), rtol=1e-3, atol=1e-5)


def test_gradients_point_to_the_planted_channel(showing: Showing) -> None:
    mean, deviation = channel_statistics(showing, range(200), rng=Random(1))
    styles = sample_styles(showing, range(8), truncation=1.0, rng=Random(1))
    found = gradient_relevance(showing, ChannelClassifier(mean), styles, deviation)
    size, sign = found["tint=on"]
    assert int(size.argmax()) == TINT and float(sign[TINT]) == -1.0
    torch.testing.assert_close(size[TINT], 5 * deviation[TINT], rtol=1e-3, atol=0)  # log-odds are 5 times the channel
    assert float(size.sum() - size[TINT]) < 1e-4


@pytest.fixture(scope="module")
def found(showing: Showing) -> Directions:
    mean, _ = channel_statistics(showing, range(500), rng=Random(0))
    settings = ChannelSettings(samples=500, tried=16, candidates=3)
    judge = Judge("channels", ChannelClassifier(mean))
    return stylespace_directions(showing, judge, settings=settings, rng=Random(0), progress=Silent())


def test_planted_channels_are_found(showing: Showing, found: Directions, tmp_path) -> None:
    for name, channel, sign in (("glow=on", GLOW, 1), ("glow=off", GLOW, -1), ("tint=on", TINT, -1)):
        vector = found.items[name].vector
        assert vector.nonzero().flatten().tolist() == [channel] and float(vector[channel]) == sign
        assert found.items[name].changes[name] > 0.5
    again = load_directions(save_directions(found, tmp_path / "s.safetensors"), showing)
    assert again.method == "stylespace" and again.items["glow=on"].channels == showing.style_channels()
    assert list(again.items["glow=on"].channels) == list(showing.style_channels())
    with pytest.raises(UserError, match="weights"):
        load_directions(tmp_path / "s.safetensors", gan.stylegan(seed=3))


def test_editing_moves_one_channel_alone(showing: Showing, found: Directions) -> None:
    concept = styled(showing, space="w+")
    moved = edit(showing, concept, {"glow=on": 2.0}, directions=found)
    with torch.no_grad(), showing.bound(concept) as view:
        before = joined(showing.channels_of(view, view.slots["styles"].read()), showing.style_channels())
    step = joined(moved.codes[0].tensors, showing.style_channels()) - before
    assert float(step[:, GLOW].mean()) == pytest.approx(2 * found.items["glow=on"].deviation, rel=1e-3)
    step[:, GLOW] = 0
    assert float(step.abs().max()) < 1e-5


# --- StyleCLIP's global directions ---


def test_effects_and_directions_in_closed_form() -> None:
    differences = torch.tensor([[[2.0, 0.0], [0.0, 5.0]], [[0.0, -1.0], [0.0, -3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    effects = channel_effects(differences)
    torch.testing.assert_close(effects, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0], [0.0, 0.0]]))
    text = text_direction(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]))
    assert float(text.norm()) == pytest.approx(1.0) and float(text[1]) > 0 > float(text[0])
    up = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(global_direction(effects, up, beta=0.1), torch.tensor([0.5**0.5, -1.0, 0.0]))
    torch.testing.assert_close(global_direction(effects, up, beta=0.8), torch.tensor([0.0, -1.0, 0.0]))
    with pytest.raises(UserError, match="beta"):
        global_direction(effects, torch.tensor([1.0, 0.0]), beta=0.9)
    with pytest.raises(UserError, match="same"):
        text_direction(up, 3 * up)


@pytest.fixture(scope="module")
def effects(showing: Showing) -> Effects:
    settings = EffectSettings(pictures=3, strength=2.0, samples=300, batch=2)
    values, deviation = measure_effects(showing, ChannelClip(), settings=settings, rng=Random(0), progress=Silent())
    return Effects(values, deviation, "channels", "3 pictures")


def test_each_channel_has_its_own_effect(showing: Showing, effects: Effects) -> None:
    """The scorer sees the channels themselves: channel c does e_c, those to RGB were left out."""
    place = 0
    for layer, size in showing.style_channels().items():
        for channel in range(place, place + size):
            expected = torch.zeros(ChannelClip.width)
            if channel < ChannelClip.width and "rgb" not in layer:
                expected[channel] = 1.0
            torch.testing.assert_close(effects.effects[channel], expected, rtol=0, atol=1e-2)
        place += size


def test_a_text_moves_its_channel_by_alpha_deviations(showing: Showing, effects: Effects) -> None:
    direction = direction_of(showing, effects, ChannelClip(), Wish("-5", "nothing"))
    step = 3.0 * direction.shift(8)
    expected = torch.zeros_like(step)
    for channel in (5, ChannelClip.width - 1):  # towards the target, away from the neutral text
        expected[channel] = -3.0 * effects.deviation[channel]
    torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-6)  # beta keeps the others still


def test_texts_as_edits(showing: Showing, effects: Effects, cache, monkeypatch) -> None:
    import editing.styleclip_global as module

    assert GlobalDirections().maker(showing) is None
    save_effects(effects, showing, user_file(showing.fingerprint))
    path = effects_file(showing.fingerprint)
    assert path is not None
    again = load_effects(path, showing)
    torch.testing.assert_close(again.effects, effects.effects, rtol=0, atol=1e-3)
    monkeypatch.setattr(module.text_methods, "_items", {"styleclip": GlobalDirections(ChannelClip)})
    concept = styled(showing)
    moved = edit(showing, concept, {"styleclip:nothing -> +5": 2.0})
    before = channels_from(showing, concept.codes[0].tensors["w"])
    step = joined(moved.codes[0].tensors, showing.style_channels()) - before
    assert float(step[0, 5]) == pytest.approx(2.0 * float(effects.deviation[5]), rel=1e-2)
    with pytest.raises(UserError, match="neutral"):
        edit(showing, concept, {"styleclip:+5": 2.0})
    with pytest.raises(UserError, match="no direction 'smile'"):
        edit(showing, concept, {"smile": 2.0})


def test_wishes() -> None:
    assert Wish.read("a person with glasses") == Wish("a person with glasses")
    assert Wish.read("a face -> a smiling face ~0.15") == Wish("a smiling face", "a face", 0.15)
    for words in ("", "a face ->", "-> a face", "~0.2"):
        with pytest.raises(UserError, match="says too little"):
            Wish.read(words)
