"""StyleCLIP's mapper: its form, and that what it learned holds for styles it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from editing.latent.mapper import Mapper
from editing.text_mapper import MapperSettings, TextMapper, load_mapper, mapper_file, save_mapper, train_mapper
from tests.editing.conftest import styled
from tests.editing.test_nada import Brightness
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate

SETTINGS = MapperSettings(steps=15, batch=2, l2=0.0)


def test_form() -> None:
    """Independent: pixel norm, four dense layers of equalised rate with leaky ReLU, a tenth of the output added."""
    mapper = Mapper([(0, 1), (2, 3)], 6, seed=3)
    w = torch.randn(2, 5, 6)
    out = mapper(w)
    assert torch.equal(out[:, 4], w[:, 4])  # in no group
    x = w[:, 2:4] / w[:, 2:4].square().mean(2, keepdim=True).sqrt()
    for layer in mapper.networks[1]:
        x = x @ (layer.weight * 0.01 / 6**0.5).T + 0.01 * layer.bias
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    torch.testing.assert_close(out[:, 2:4], w[:, 2:4] + 0.1 * x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mapper(3 * w)[:, :4] - 3 * w[:, :4], out[:, :4] - w[:, :4], rtol=1e-3, atol=1e-4)


def test_what_it_learns_holds_for_other_pictures(backbone) -> None:
    """Trained on samples, it brightens a concept: and with a large penalty it moves less."""
    concept = styled(backbone, 3, space="w+")
    w = concept.codes[0].tensors["w"]
    moves = {}
    for l2 in (0.0, 50.0):
        settings = MapperSettings(steps=15, batch=2, l2=l2)
        mapper = train_mapper(backbone, "a bright face", Brightness(), settings=settings)
        with backbone.bound() as view:
            before, after = (backbone.render(view, each).mean((1, 2, 3)) for each in (w, mapper(w)))
        moves[l2] = float((mapper(w) - w).square().mean())
        if l2 == 0:
            assert bool((after > before + 0.02).all())
    assert moves[50.0] < 0.5 * moves[0.0]


class Counting(Brightness):
    calls = 0

    def text_features(self, texts: Sequence[str]) -> Tensor:
        type(self).calls += 1
        return super().text_features(texts)


def test_the_scheme_trains_once_and_keeps_it(backbone, cache) -> None:
    scheme = TextMapper(settings=SETTINGS, clip=Counting, identity=lambda: None)
    concept, target = styled(backbone, 2, extra=True), Target(prompt="a bright <me>")
    one = scheme.generate(backbone, [concept], target, rng=Random(0), progress=Silent())
    two = scheme.generate(backbone, [concept], target, rng=Random(5), progress=Silent())
    assert Counting.calls == 1 and torch.equal(one, two)
    assert bool((one.mean((1, 2, 3)) > generate(backbone, [concept], Target()).mean((1, 2, 3)) + 0.01).all())
    (kept,) = scheme.edited(backbone, [concept], target, rng=Random(0), progress=Silent())
    assert [code.space for code in kept.codes] == ["w+", "noise", "weights"]


def test_files(backbone, cache, tmp_path) -> None:
    path = mapper_file(backbone, "a", SETTINGS)
    assert path != mapper_file(backbone, "b", SETTINGS)
    mapper = Mapper([(0, 3), (4, 7)], 16, seed=4)
    save_mapper(mapper, path, text="a", backbone=backbone)
    again = load_mapper(path, backbone)
    assert all(torch.equal(v, mapper.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(UserError, match="train it again"):
        load_mapper(path, gan.stylegan(seed=9))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:80])
    with pytest.raises(UserError, match="no mapper"):
        load_mapper(tmp_path / "cut.safetensors", backbone)
