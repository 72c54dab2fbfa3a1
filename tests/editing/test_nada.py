"""StyleGAN-NADA: its loss and layer choice in closed form, and shifts whose outcome is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from editing.find.styleclip import Effects, save_effects, user_file
from editing.latent.nada import chosen_layers, directional_loss
from editing.nada import DomainSettings, ZeroShotDomain, shift_domain, weights_by_style
from editing.styles import joined
from editing.text_global import TextGlobal
from tests.editing.conftest import styled
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import edit, generate

SMALL = DomainSettings(steps=12, batch=4, lr=0.02, choice_batch=2)


class Brightness:
    """Pictures turn from (1,0) to (0,1) as their mean colour goes from 0 to 1; so do the texts."""

    name = "brightness"

    def image_features(self, images: Tensor) -> Tensor:
        angle = images.mean((1, 2, 3)) * torch.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.tensor([0.0, 1.0]) if "bright" in t else torch.tensor([1.0, 0.0]) for t in texts])


def test_directional_loss_in_closed_form() -> None:
    old = torch.zeros(3, 2)
    new = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    text = torch.tensor([0.0, 5.0])
    torch.testing.assert_close(directional_loss(new, old, text), torch.tensor([1.0, 1 - 0.5**0.5, 2.0]))
    same = torch.zeros(1, 2, requires_grad=True)
    loss = directional_loss(same, old[:1], text)
    (slope,) = torch.autograd.grad(loss.sum(), [same])
    assert float(loss.detach()) == 1.0 and slope[0, 0] == 0 and -100 < float(slope[0, 1]) < 0


def test_the_layers_that_move_most() -> None:
    before = torch.zeros(2, 4, 3)
    after = torch.tensor([0.1, -3.0, 0.0, 2.0]).view(1, 4, 1).expand(2, 4, 3)
    assert chosen_layers(before, after, 2) == [1, 3] and chosen_layers(before, after, 4) == [0, 1, 2, 3]
    for count in (0, 5):
        with pytest.raises(UserError, match="1 to 4"):
            chosen_layers(before, after, count)


def test_weights_know_their_style(backbone) -> None:
    styles = weights_by_style(backbone, r"affine|rgb|noise")
    assert styles["synthesis.b4.conv1.weight"] == 0 and styles["synthesis.b8.conv0.weight"] == 1
    assert styles["synthesis.b8.conv1.bias"] == 2 and styles["synthesis.b4.const"] == -1
    assert not [path for path in styles if "affine" in path or "rgb" in path or "mapping" in path]
    with pytest.raises(UserError, match="left to train"):
        weights_by_style(backbone, ".")


def test_the_domain_gets_brighter_and_the_backbone_stays(backbone) -> None:
    before = {name: value.clone() for name, value in backbone.generator.state_dict().items()}
    texts = {"source": "a face", "target": "a bright face"}
    domain = shift_domain(backbone, **texts, scorer=Brightness(), settings=SMALL)
    assert [code.space for code in domain.codes] == ["weights"] and domain.meta["domain"]["target"] == "a bright face"
    plain = generate(backbone, [], Target(n=4), seed=1).mean((1, 2, 3))
    shifted = generate(backbone, [domain], Target(n=4), seed=1).mean((1, 2, 3))
    assert bool((shifted > plain + 0.02).all())
    away = shift_domain(backbone, source="a bright face", target="a face", scorer=Brightness(), settings=SMALL)
    assert bool((generate(backbone, [away], Target(n=4), seed=1).mean((1, 2, 3)) < plain - 0.02).all())
    assert all(torch.equal(value, before[name]) for name, value in backbone.generator.state_dict().items())
    again = shift_domain(backbone, **texts, scorer=Brightness(), settings=SMALL)
    assert all(torch.equal(again.codes[0].tensors[k], v) for k, v in domain.codes[0].tensors.items())
    assert not any(value.requires_grad for value in domain.codes[0].tensors.values())


def test_adaptive_layers_train_no_other(backbone, monkeypatch) -> None:
    import editing.nada as module

    monkeypatch.setattr(module, "chosen_layers", lambda before, after, count: [2])
    settings = DomainSettings(steps=2, batch=2, layers=1, choice_batch=2)
    domain = shift_domain(backbone, source="a face", target="a bright face", scorer=Brightness(), settings=settings)
    styles = weights_by_style(backbone, settings.skip)
    for path, value in domain.codes[0].tensors.items():
        same = torch.equal(value, backbone.generator.get_parameter(path))
        assert same == (styles[path] not in (-1, 2)), path


def test_a_concept_in_the_domain(backbone) -> None:
    """Styles stay, weights come: an inverted picture is drawn in the new domain, and both can be kept."""
    concept = styled(backbone, 2, space="w+")
    scheme = ZeroShotDomain(settings=SMALL, clip=Brightness)
    target = Target(prompt="a bright <me>", source="<me>")
    images = scheme.generate(backbone, [concept], target, rng=Random(0), progress=Silent())
    plain = generate(backbone, [concept], Target())
    assert bool((images.mean((1, 2, 3)) > plain.mean((1, 2, 3)) + 0.02).all())
    kept = scheme.edited(backbone, [concept], target, rng=Random(0), progress=Silent())
    whole = kept[0].with_codes([code for each in kept for code in each.codes])
    assert torch.equal(generate(backbone, [whole], Target()), images)
    with pytest.raises(UserError, match="both replace"):
        scheme.generate(backbone, [styled(backbone, 1, extra=True)], target, rng=Random(0), progress=Silent())
    with pytest.raises(UserError, match="does not say what it draws"):
        scheme.edited(backbone, [], Target(prompt="a sketch"), rng=Random(0), progress=Silent())


class ChannelTexts(Brightness):
    """The text's direction is the second axis."""


def test_global_directions_as_a_scheme(backbone, cache) -> None:
    concept = styled(backbone, 1)
    scheme = TextGlobal(alpha=2.0, clip=ChannelTexts)
    target = Target(prompt="a bright <me>", source="<me>")
    with pytest.raises(UserError, match="--find styleclip"):
        scheme.generate(backbone, [concept], target, rng=Random(0), progress=Silent())
    count = sum(backbone.style_channels().values())
    values = functional.normalize(torch.tensor([[1.0, 0.0]]).repeat(count, 1), dim=1)
    values[7] = torch.tensor([-(0.5**0.5), 0.5**0.5])  # the one channel that goes from source to target
    values[:7] = values[8:] = torch.tensor([0.5**0.5, 0.5**0.5])
    save_effects(Effects(values, torch.full((count,), 0.5), "x", "y"), backbone, user_file(backbone.fingerprint))
    (moved,) = scheme.edited(backbone, [concept], target, rng=Random(0), progress=Silent())
    with torch.no_grad(), backbone.bound(concept) as view:
        before = joined(backbone.channels_of(view, view.slots["styles"].read()), backbone.style_channels())
    step = joined(moved.codes[0].tensors, backbone.style_channels()) - before
    assert step[0].abs().gt(1e-4).nonzero().flatten().tolist() == [7]
    assert float(step[0, 7]) == pytest.approx(2.0 * 0.5, rel=1e-3)


def test_which_scheme_is_chosen(backbone) -> None:
    concept = [styled(backbone)]
    assert choose_scheme(backbone, concept, Target(prompt="<me>")).name == "text-edit"
    assert choose_scheme(backbone, concept, Target(prompt="<me>", source="x")).name == "text-global"
    with pytest.raises(UserError, match="text-edit' does not read source"):
        edit(backbone, concept, Target(prompt="<me>", source="x"), scheme="text-edit")
