import math
import random
from pathlib import Path

import pytest
import torch

from unified.avatars import dataset
from unified.errors import UserError
from unified.extractors import identity
from unified.extractors.identity import Alike, IdentityEmbedder, contrastive_loss, pairs, verify
from unified.extractors.network import parameters_of, save_model
from unified.zoo.training import BuildSettings


def test_vectors_are_unit_and_size_is_bounded() -> None:
    model = IdentityEmbedder()
    assert parameters_of(model) <= 1_500_000
    vectors = model.eval().embed(torch.rand(3, 3, 64, 64))
    assert vectors.shape == (3, 128)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_similarity_same_and_gradient() -> None:
    model = IdentityEmbedder(width=4, features=8, threshold=0.9999).eval()
    images = torch.rand(3, 3, 96, 96, requires_grad=True)
    similarity = model.similarity(images, images[:2])
    assert similarity.shape == (3, 2)
    assert torch.allclose(similarity.diagonal(), torch.ones(2), atol=1e-5)
    assert model.same(images, images[:2]).diagonal().all()
    similarity[2, 0].backward()
    assert images.grad is not None and images.grad[[0, 2]].abs().sum() > 0
    with pytest.raises(UserError, match="float images"):
        model.embed(torch.rand(3, 64, 64))


def test_contrastive_loss_is_the_equation() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1)
    person, t = [0, 0, 0, 1, 1, 2, 3], 0.2
    per_anchor = []
    for i in range(7):
        total = sum(math.exp(float(vectors[i] @ vectors[a]) / t) for a in range(7) if a != i)
        positives = [p for p in range(7) if p != i and person[p] == person[i]]
        if positives:
            terms = [math.log(math.exp(float(vectors[i] @ vectors[p]) / t) / total) for p in positives]
            per_anchor.append(-sum(terms) / len(terms))
    expected = sum(per_anchor) / len(per_anchor)
    assert len(per_anchor) == 5
    vectors.requires_grad_()
    loss = contrastive_loss(vectors, torch.tensor(person), temperature=t)
    assert math.isclose(loss.item(), expected, rel_tol=1e-9)
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, torch.tensor(person), temperature=t), vectors)


def test_verify_is_brute_force() -> None:
    same, different = (torch.randn(30) + 1).round(decimals=1), torch.randn(50).round(decimals=1)
    score = verify(same, different)
    wins = (same[:, None] > different).double() + 0.5 * (same[:, None] == different).double()
    assert math.isclose(score.auc, float(wins.mean()), rel_tol=1e-9)
    best = max(
        float(((same >= t).double().mean() + (different < t).double().mean()) / 2) for t in torch.cat([same, different])
    )
    assert math.isclose(score.accuracy, best, rel_tol=1e-9)
    at = ((same >= score.threshold).double().mean() + (different < score.threshold).double().mean()) / 2
    assert math.isclose(float(at), best, rel_tol=1e-9)
    perfect = verify(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.4]))
    assert perfect.auc == perfect.accuracy == 1 and abs(perfect.threshold - 0.6) < 1e-6


def test_pairs() -> None:
    vectors = torch.randn(4, 3)
    same, different = pairs(vectors, torch.tensor([5, 5, 6, 6]))
    assert torch.allclose(same, torch.stack([vectors[0] @ vectors[1], vectors[2] @ vectors[3]]))
    assert len(different) == 4


def test_people_alike_share_all_or_all_but_one_attribute() -> None:
    rng = random.Random(0)
    keys = [tuple(rng.randrange(3) for _ in range(4)) for _ in range(200)]
    alike, equal = Alike.of(keys), 0
    for _ in range(300):
        person = rng.randrange(200)
        other = alike.pick(person, rng)
        differing = sum(a != b for a, b in zip(keys[person], keys[other], strict=True))
        assert other != person and differing <= 1
        equal += differing == 0
    assert 100 < equal < 280
    batch = alike.batch(30, rng)
    assert len(set(batch)) == len(batch) == 30
    lonely = Alike.of([(0, 0, 0, 0), (1, 1, 1, 1)])
    assert lonely.pick(0, rng) == 1


def test_build_store_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    dataset.build(tmp_path / "avatars" / "v1", people=30, validation=6, pictures=4, workers=1)
    identity.build(BuildSettings(out=tmp_path / "out", work=tmp_path / "work", steps=2, batch=18))
    model = identity.load(tmp_path / "out")
    assert not model.training and -1 <= model.threshold <= 1
    card = (tmp_path / "out" / "card.md").read_text()
    assert "unified zoo build avatars/identity" in card and "other shade only" in card
    with pytest.raises(UserError, match="No extractor"):
        identity.load(tmp_path / "work")
    save_model(tmp_path / "other", model, {"kind": "another"}, "card")
    with pytest.raises(UserError, match="another"):
        identity.load(tmp_path / "other")
