"""SeFa and GANSpace against planted spectra and independent computations, and their directions on a GAN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from editing.affine import style_matrices
from editing.direction_file import directions_for, load_directions, save_directions, user_file
from editing.edits import edit
from editing.find.judging import Judge, layer_groups
from editing.find.unsupervised import ComponentSettings, ganspace_directions, sefa_directions
from editing.latent.factorise import principal, sefa, signed
from editing.styles import sample_styles
from tests.editing.conftest import WIDTH, LinearClassifier, Telling, styled
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.errors import UserError

SETTINGS = ComponentSettings(components=3, samples=2000, judged=32)


def orthogonal(size: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0]


def test_sefa_finds_planted_singular_vectors() -> None:
    """A = U S V^T, split into layers: the directions are the rows of V^T by falling singular value."""
    strengths = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    right = orthogonal(6, 1)
    whole = orthogonal(10, 2)[:, :6] * strengths @ right.T
    vectors, values = sefa([whole[:4], whole[4:7], whole[7:]], 4, normalise=False)
    torch.testing.assert_close(values, strengths[:4].square())
    torch.testing.assert_close(vectors, signed(right.T[:4]))
    one, _ = sefa([7.0 * whole], 4, normalise=False)
    torch.testing.assert_close(one, vectors)


def test_sefa_with_channels_of_one_length() -> None:
    """Independent: singular vectors of the row-normalised matrix; a channel's scale then does not matter."""
    drawn = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    vectors, _ = sefa([drawn], 5)
    rows = drawn.double().numpy() / np.linalg.norm(drawn.double().numpy(), axis=1, keepdims=True)
    expected = np.linalg.svd(rows)[2]
    torch.testing.assert_close((vectors @ torch.from_numpy(expected).T).abs(), torch.eye(5, dtype=torch.float64))
    louder, _ = sefa([drawn * torch.linspace(0.1, 9, 12).unsqueeze(1)], 5)
    torch.testing.assert_close(louder, vectors, atol=1e-6, rtol=0)


def test_principal_components_of_a_planted_covariance() -> None:
    """Batches whose covariance is exact: far from the origin, in batches of different sizes."""
    axes, spread = orthogonal(5, 4), torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    white = torch.randn(400, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / 399)).T  # covariance exactly 1
    points = 1000.0 + white * spread @ axes.T
    components, deviations, mean = principal([points[:1], points[1:130], points[130:]], 3)
    torch.testing.assert_close(deviations, spread[:3], rtol=1e-8, atol=0)
    torch.testing.assert_close(components, signed(axes.T[:3]), rtol=0, atol=1e-7)
    torch.testing.assert_close(mean, points.mean(0))


def test_too_many_or_too_few() -> None:
    with pytest.raises(UserError, match="1 to 4"):
        sefa([torch.randn(9, 4)], 5)
    with pytest.raises(UserError, match="1 to 4"):
        principal([torch.randn(9, 4)], 0)
    with pytest.raises(UserError, match="at least 2"):
        principal([torch.randn(1, 4)], 1)
    with pytest.raises(UserError, match="at least 2"):
        principal([], 1)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (18, {"all": (0, 17), "coarse": (0, 3), "medium": (4, 7), "fine": (8, 17)}),
        (8, {"all": (0, 7), "coarse": (0, 3), "medium": (4, 7)}),
        (4, {"all": (0, 3)}),
        (1, {"all": (0, 0)}),
    ],
)
def test_layer_groups(number: int, expected: dict[str, tuple[int, int]]) -> None:
    assert layer_groups(number) == expected


def test_style_matrices_are_the_affine_layers(backbone) -> None:
    matrices = style_matrices(backbone)
    number, width = backbone.style_shape()
    assert len(matrices) == number
    assert set(matrices[0]) == {"b4.conv1"}
    assert set(matrices[1]) == {"b4.torgb", "b8.conv0"}  # a block's RGB layer shares its w with the next
    for matrix_by_layer in matrices:
        for layer, matrix in matrix_by_layer.items():
            weight = backbone.generator.get_parameter(f"synthesis.{layer}.affine.weight")
            torch.testing.assert_close(matrix, weight / width**0.5, rtol=1e-4, atol=1e-5)


def judge_of(backbone: Telling, a: torch.Tensor, b: torch.Tensor) -> Judge:
    return Judge("linear", LinearClassifier(a, b, backbone.style_statistics()[0]))


@pytest.fixture(scope="module")
def telling() -> Telling:
    return Telling("tiny/telling", gan.stylegan(seed=1).generator)


def test_sefa_directions_of_a_generator(telling: Telling) -> None:
    number, _ = telling.style_shape()
    judge = judge_of(telling, *torch.eye(WIDTH)[:2])
    found = sefa_directions(telling, judge, settings=SETTINGS, rng=Random(0), progress=Silent())
    assert set(found.items) == {f"{group}-{k}" for group in layer_groups(number) for k in range(3)}
    weights = [
        telling.generator.get_parameter(f"synthesis.{layer}.affine.weight").detach()
        for layer in ("b16.conv1", "b16.torgb", "b32.conv0", "b32.conv1", "b32.torgb")
    ]
    expected, _ = sefa(weights, 3)
    medium = torch.stack([found.items[f"medium-{k}"].vector for k in range(3)]).double()
    torch.testing.assert_close((medium @ expected.T).abs().diagonal(), torch.ones(3).double(), rtol=0, atol=1e-4)
    step = found.items["medium-0"].shift(number)
    assert not step[:4].any() and bool(step[4:].any())
    assert found.method == "sefa" and found.extractor == "linear" and found.data


def test_components_are_named_by_what_they_change(telling: Telling, cache, monkeypatch) -> None:
    """The classifier reads w along the first principal component: that one, and no other, is called by it."""
    settings = ComponentSettings(components=3, samples=3000, judged=64)
    axis, _, _ = principal([sample_styles(telling, range(3000), truncation=1.0, rng=Random(2))[:, 0]], 2)
    judge = judge_of(telling, -axis[0].float(), axis[1].float())
    found = ganspace_directions(telling, judge, settings=settings, rng=Random(2), progress=Silent())
    assert found.items["all-0"].changes["glow=on"] < -0.9 and found.items["all-0"].changes["glow=off"] > 0.9
    assert abs(found.items["all-2"].changes.get("glow=on", 0.0)) < 0.3
    assert found.items["medium-0"].changes == {}  # pictures show the first layer alone
    save_directions(found, user_file(telling.fingerprint, "ganspace"))
    known = directions_for(telling)
    full, sign = known.find("ganspace:glow=on")
    assert full in ("ganspace:all-0", "ganspace:coarse-0") and sign == -1.0
    concept = styled(telling)
    by_name, by_number = (edit(telling, concept, {n: s}) for n, s in (("ganspace:glow=on", 2.0), (full, -2.0)))
    torch.testing.assert_close(by_name.codes[0].tensors["w"], by_number.codes[0].tensors["w"])


def test_file_keeps_layers_changes_and_method(telling: Telling, tmp_path) -> None:
    judge = judge_of(telling, *torch.eye(WIDTH)[:2])
    found = sefa_directions(telling, judge, settings=SETTINGS, rng=Random(0), progress=Silent())
    again = load_directions(save_directions(found, tmp_path / "sefa.safetensors"), telling)
    assert (again.method, again.data, again.samples) == (found.method, found.data, 32)
    for name, direction in found.items.items():
        assert again.items[name].layers == direction.layers and again.items[name].changes == direction.changes
        assert torch.equal(again.items[name].vector, direction.vector)
