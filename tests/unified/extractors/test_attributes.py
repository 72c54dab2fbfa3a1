from pathlib import Path

import pytest
import torch
from torch.nn import functional

from unified.avatars import dataset
from unified.avatars.attributes import ATTRIBUTES
from unified.errors import UserError
from unified.extractors import attributes
from unified.extractors.attributes import AttributeClassifier
from unified.extractors.network import parameters_of, save_model
from unified.zoo.training import BuildSettings


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    dataset.build(root / "avatars" / "v1", people=40, validation=8, pictures=4, workers=1)
    return root


def test_size() -> None:
    assert parameters_of(AttributeClassifier()) <= 1_500_000


def test_logits_prediction_and_probability_agree() -> None:
    model, images = AttributeClassifier(width=4, features=8).eval(), torch.rand(5, 3, 64, 64)
    logits = model.logits(images)
    assert {name: value.shape for name, value in logits.items()} == {
        name: (5, len(values)) for name, values in ATTRIBUTES.items()
    }
    predicted, names = model.predict(images), model.names(images)
    for name, values in ATTRIBUTES.items():
        each = torch.stack([model.probability(images, name, value) for value in values], dim=1)
        assert torch.allclose(each.sum(dim=1), torch.ones(5), atol=1e-5)
        assert torch.equal(each.argmax(dim=1), predicted[name]) and predicted[name].dtype == torch.int64
        assert [row[name] for row in names] == [values[index] for index in predicted[name].tolist()]


def test_probability_has_a_gradient_and_other_sizes_are_resized() -> None:
    model = AttributeClassifier(width=4, features=8).eval()
    images = torch.rand(2, 3, 128, 96, requires_grad=True)
    model.probability(images, "mouth", "smile").sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_errors_name_what_is_known() -> None:
    model = AttributeClassifier(width=4, features=8)
    with pytest.raises(UserError, match="sunglasses"):
        model.probability(torch.rand(1, 3, 64, 64), "glasses", "monocle")
    with pytest.raises(UserError, match="background"):
        model.probability(torch.rand(1, 3, 64, 64), "weather", "rain")
    for wrong in (torch.rand(3, 64, 64), torch.rand(1, 64, 64, 3), torch.zeros(1, 3, 64, 64).byte()):
        with pytest.raises(UserError, match="float images"):
            model.logits(wrong)


def test_losses_are_cross_entropies_and_skip_eyes_behind_dark_lenses() -> None:
    model = AttributeClassifier(width=4, features=8).eval()
    logits = {name: torch.randn(3, len(values)) for name, values in ATTRIBUTES.items()}
    truth = torch.zeros(3, len(ATTRIBUTES), dtype=torch.int64)
    columns = list(ATTRIBUTES)
    truth[0, columns.index("glasses")] = ATTRIBUTES["glasses"].index("sunglasses")
    losses = attributes.attribute_losses(logits, truth)
    assert set(losses) == set(model.vocabulary)
    expected = -logits["mouth"].log_softmax(dim=1)[:, 0].mean()
    assert torch.allclose(losses["mouth"], expected)
    eyes = functional.cross_entropy(logits["eyes"][1:], truth[1:, columns.index("eyes")])
    assert torch.allclose(losses["eyes"], eyes)


def test_stored_and_loaded(tmp_path: Path) -> None:
    model = AttributeClassifier(width=4, features=8)
    model(torch.rand(8, 3, 64, 64))  # moves the running means
    model.eval()
    config = {"kind": attributes.KIND, "vocabulary": model.vocabulary, "shape": model.shape}
    save_model(tmp_path / "a", model, config, "card")
    loaded = attributes.load(tmp_path / "a")
    images = torch.rand(4, 3, 64, 64)
    assert torch.allclose(loaded(images), model(images), atol=1e-2)
    assert not loaded.training and not any(value.requires_grad for value in loaded.parameters())
    assert loaded.vocabulary == model.vocabulary
    with pytest.raises(UserError, match="No extractor"):
        attributes.load(tmp_path)
    save_model(tmp_path / "b", model, {**config, "kind": "another"}, "card")
    with pytest.raises(UserError, match="another"):
        attributes.load(tmp_path / "b")
    save_model(tmp_path / "c", model, {**config, "shape": {"width": 8, "features": 8}}, "card")
    with pytest.raises(UserError, match="cannot be loaded"):
        attributes.load(tmp_path / "c")


def test_build_resumes_to_the_same_weights(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(cache))
    # The schedule knows the number of steps: the interrupted run aims at 4 too.
    full = BuildSettings(out=tmp_path / "full", work=tmp_path / "full-work", steps=4, batch=8)
    part = BuildSettings(out=tmp_path / "part", work=tmp_path / "part-work", steps=4, batch=8, minutes=0.0)
    attributes.build(full)
    for _ in range(4):  # one step each, as no minutes are left after it
        attributes.build(part)
    whole, parts = attributes.load(tmp_path / "full"), attributes.load(tmp_path / "part")
    for first, second in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-4)
    card = (tmp_path / "full" / "card.md").read_text()
    assert "unified zoo build avatars/attributes" in card and "4 steps of 8" in card


def test_measure_counts_right_answers(cache: Path) -> None:
    class Oracle(AttributeClassifier):
        def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            answer = {name: column.clone() for name, column in zip(ATTRIBUTES, truth.T, strict=True)}
            answer["mouth"] = (answer["mouth"] + 1) % 7
            # Wrong only where dark lenses hide the eyes: not counted.
            hidden = answer["glasses"] == ATTRIBUTES["glasses"].index("sunglasses")
            answer["eyes"] = torch.where(hidden, (answer["eyes"] + 1) % 6, answer["eyes"])
            return answer

    data = dataset.load("validation", folder=cache / "avatars" / "v1")
    truth = torch.tensor(data.attributes.tolist())
    measured = attributes.measure(Oracle(width=4, features=8), data)
    assert measured == {name: 0.0 if name == "mouth" else 1.0 for name in ATTRIBUTES}
