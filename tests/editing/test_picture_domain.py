"""Mind the Gap and DiFa: their losses in closed form, and a generator that comes to one picture's domain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from editing.find.reader import train_reader
from editing.latent.picture_domain import (
    across_loss,
    consistency_loss,
    least_changed,
    local_style_loss,
    within_loss,
)
from editing.picture_domain import (
    DiversePictureDomain,
    DiverseSettings,
    GapSettings,
    PictureDomain,
    shift_to_picture,
    shift_to_picture_diversely,
)
from editing.rendering import render_shifted
from editing.styles import sample_styles
from tests.editing.conftest import styled
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate

GAP = GapSettings(steps=25, batch=4, lr=0.01, inversion_steps=15)
DIVERSE = DiverseSettings(steps=25, batch=4, lr=0.01, window=5, samples=50, reader_steps=30)


class Layout:
    """Features: the mean colour of each quarter; tokens: the mean colour of each of 16 parts."""

    name = "layout"

    def image_features(self, images: Tensor) -> Tensor:
        means = functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return functional.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.7)], 1), dim=1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("no text is read")

    def image_tokens(self, images: Tensor, *, layer: int | None = None) -> Tensor:
        means = functional.adaptive_avg_pool2d(images, 4).flatten(2).transpose(1, 2)
        return torch.cat([means - 0.5, torch.full_like(means[:, :, :1], 0.2)], 2)


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean((1, 2, 3))


def blue(side: int = 32) -> Tensor:
    picture = torch.full((1, 3, side, side), 0.15)
    picture[:, 2] = 0.9
    return picture


# --- the losses ---


def test_directions_between_and_within_domains() -> None:
    reference, picture = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 3.0])
    old = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    moved = old + torch.tensor([0.0, 2.0])
    torch.testing.assert_close(across_loss(moved, old, picture, reference), torch.zeros(2))
    torch.testing.assert_close(across_loss(old - (moved - old), old, picture, reference), 2 * torch.ones(2))
    sideways = old + torch.tensor([0.5, 0.0])
    torch.testing.assert_close(across_loss(sideways, old, picture, reference), torch.ones(2))
    # A whole domain that moves with the reference keeps every difference; one that falls onto the picture does not.
    torch.testing.assert_close(within_loss(old + picture, old, picture, reference), torch.zeros(2))
    turned = picture + torch.stack([-old[:, 1], old[:, 0]], 1)
    torch.testing.assert_close(within_loss(turned, old, picture, reference), torch.ones(2))


def test_local_style_is_the_relaxed_earth_movers_distance() -> None:
    """Independent, by loops; zero for the same tokens in any order, and for any number of copies of them."""
    torch.manual_seed(0)
    tokens, style = torch.randn(2, 5, 3), torch.randn(4, 3)
    for row, found in zip(tokens, local_style_loss(tokens, style), strict=True):
        cost = [[1 - float(functional.cosine_similarity(a, b, dim=0)) for b in style] for a in row]
        there = sum(min(line) for line in cost) / 5
        back = sum(min(line[j] for line in cost) for j in range(4)) / 4
        assert float(found) == pytest.approx(max(there, back), abs=1e-5)
    shuffled = torch.cat([style[[2, 0, 3, 1]], 2 * style[:2]]).unsqueeze(0)
    assert float(local_style_loss(shuffled, style)) == pytest.approx(0, abs=1e-6)
    few = style[:1].expand(1, 5, -1)  # near to one part, but not all parts are there
    assert float(local_style_loss(few, style)) > 0.1


def test_consistency_counts_what_changes_least() -> None:
    change = torch.tensor([0.1, -5.0, 0.3, 2.0])
    assert least_changed(change, 0.5).tolist() == [1, 0, 1, 0]
    new, old = torch.tensor([[1.0, 9.0, 2.0, 9.0]]), torch.zeros(1, 4)
    assert float(consistency_loss(new, old, change, 0.5)) == pytest.approx(3 / 4)
    assert float(consistency_loss(new, old, change, 0.0)) == 0


# --- shifts ---


@pytest.fixture(scope="module")
def backbone():
    return gan.stylegan()


def distance_to(images: Tensor, picture: Tensor) -> float:
    return float((images.mean((2, 3)) - picture.mean((2, 3))).square().sum(1).mean())


def test_mind_the_gap_rebuilds_the_picture_and_keeps_differences(backbone) -> None:
    before = {name: value.clone() for name, value in backbone.generator.state_dict().items()}
    picture = blue()
    own = sample_styles(backbone, [5], truncation=0.5, rng=Random(3))
    domain = shift_to_picture(backbone, picture, Layout(), squared, styles=own, settings=GAP)
    assert [code.space for code in domain.codes] == ["weights"] and domain.meta["domain"]["method"] == "mind-the-gap"
    assert all(torch.equal(value, before[name]) for name, value in backbone.generator.state_dict().items())
    plain = generate(backbone, [], Target(n=6), seed=1)
    shifted = generate(backbone, [domain], Target(n=6), seed=1)
    assert distance_to(shifted, picture) < distance_to(plain, picture) - 0.02
    with torch.no_grad(), backbone.bound(domain) as view:
        rebuilt = backbone.render(view, own)
    assert float(squared(rebuilt, picture)) < 0.5 * float(squared(render_shifted(backbone, own), picture))
    # Pictures differ from one another still.
    assert float(shifted.std(0).mean()) > 0.25 * float(plain.std(0).mean())


def test_the_picture_is_inverted_when_its_styles_are_not_given(backbone) -> None:
    settings = GapSettings(steps=1, batch=2, inversion_steps=2)
    one = shift_to_picture(backbone, blue(), Layout(), squared, settings=settings, progress=Silent())
    two = shift_to_picture(backbone, blue(), Layout(), squared, settings=settings, progress=Silent())
    assert all(torch.equal(two.codes[0].tensors[k], v) for k, v in one.codes[0].tensors.items())


def test_difa_comes_to_the_picture(backbone) -> None:
    picture, layout = blue(), Layout()
    domain = shift_to_picture_diversely(backbone, picture, layout, settings=DIVERSE)
    plain, shifted = (generate(backbone, bound, Target(n=6), seed=1) for bound in ([], [domain]))
    style = layout.image_tokens(picture)[0]
    losses = [float(local_style_loss(layout.image_tokens(images), style).mean()) for images in (plain, shifted)]
    assert losses[1] < 0.8 * losses[0]
    assert distance_to(shifted, picture) < distance_to(plain, picture)
    assert float(shifted.std(0).mean()) > 0.2 * float(plain.std(0).mean())


def test_the_reader_reads_w(backbone) -> None:
    """Nearer to a fresh picture's own w than guessing the mean is."""
    reader = train_reader(backbone, steps=80, rng=Random(0), progress=Silent())
    styles = sample_styles(backbone, range(64), truncation=1.0, rng=Random(8))
    mean, whole = backbone.style_statistics()
    w = (styles[:, 0] - mean) / (whole / styles.shape[2] ** 0.5)
    assert float((reader(render_shifted(backbone, styles)) - w).square().mean()) < 0.9 * float(w.square().mean())


# --- schemes ---


@pytest.mark.parametrize(
    "scheme",
    [
        PictureDomain(
            settings=GapSettings(steps=2, batch=2, inversion_steps=2), clip=Layout, perception=lambda: squared
        ),
        DiversePictureDomain(settings=DiverseSettings(steps=2, batch=2, samples=10, reader_steps=2), clip=Layout),
    ],
)
def test_schemes(backbone, scheme) -> None:
    concept, target = styled(backbone, 2, space="w+"), Target(pictures=blue())
    kept = scheme.edited(backbone, [concept], target, rng=Random(0), progress=Silent())
    assert kept[0] is concept and kept[1].name == "<domain>"
    images = scheme.generate(backbone, [concept], target, rng=Random(0), progress=Silent())
    assert torch.equal(images, generate(backbone, kept, Target()))
    for wrong in (torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 16, 16)):
        with pytest.raises(UserError, match="one picture"):
            scheme.edited(backbone, [concept], Target(pictures=wrong), rng=Random(0), progress=Silent())
    with pytest.raises(UserError, match="both replace"):
        scheme.generate(backbone, [styled(backbone, 1, extra=True)], target, rng=Random(0), progress=Silent())


def test_a_picture_asks_for_a_scheme_that_reads_it(backbone) -> None:
    assert Target(pictures=blue()).asked() == {"pictures"} and Target().asked() == set()
    assert choose_scheme(backbone, [styled(backbone)], Target(pictures=blue())).name == "picture-domain"
    with pytest.raises(UserError, match="does not read pictures"):
        backbone.edit(styled(backbone), pictures=blue(), scheme="drag")
