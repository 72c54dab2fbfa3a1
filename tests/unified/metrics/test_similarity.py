"""Cosine scores and their averaging."""

import math

import pytest
import torch

from unified.errors import UserError
from unified.metrics.score import Score, mean_score
from unified.metrics.similarity import (
    FIDELITY_AVERAGING,
    concept_fidelity,
    cosine_matrix,
    identity_fidelity,
    prompt_following,
)

X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
DIAGONAL = torch.tensor([1.0, 1.0])


def test_cosines_ignore_length() -> None:
    found = cosine_matrix(torch.stack([3 * X, DIAGONAL]), torch.stack([X, Y, -5 * X]))
    root = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, -1.0], [root, root, -root]]))


def test_every_prompt_counts_alike() -> None:
    """Three perfect images of one prompt and one orthogonal image of another: 1/2, not 3/4."""
    generated = [torch.stack([X, X, X]), Y[None]]
    assert concept_fidelity(generated, X[None]) == pytest.approx(0.5)


def test_all_references_are_compared() -> None:
    """Cosines are averaged, not features: between X and {X, Y} it is 1/2, not the cosine with their mean."""
    assert concept_fidelity([X[None]], torch.stack([X, Y])) == pytest.approx(0.5)


def test_prompts_are_compared_with_their_own_text() -> None:
    generated = [torch.stack([X, Y]), Y[None]]
    assert prompt_following(generated, torch.stack([X, Y])) == pytest.approx(0.75)
    assert prompt_following(generated, torch.stack([Y, X])) == pytest.approx(0.25)


def test_images_without_a_face_are_counted_apart() -> None:
    generated = [torch.stack([X, Y]), torch.stack([Y, Y])]
    found = [torch.tensor([True, False]), torch.tensor([False, False])]
    cosine, missing = identity_fidelity(generated, found, X[None])
    assert (cosine, missing) == (pytest.approx(1.0), pytest.approx(0.75))
    cosine, missing = identity_fidelity(generated, [torch.zeros(2).bool()] * 2, X[None])
    assert math.isnan(cosine) and missing == 1


def test_refusals() -> None:
    with pytest.raises(UserError, match="one extractor"):
        cosine_matrix(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(UserError, match="no reference"):
        concept_fidelity([X[None]], torch.zeros(0, 2))
    with pytest.raises(UserError, match="no generated image"):
        concept_fidelity([X[None], torch.zeros(0, 2)], X[None])
    with pytest.raises(UserError, match="2 prompts and 1"):
        prompt_following([X[None], Y[None]], X[None])


def test_scores_of_unlike_extractors_are_not_averaged() -> None:
    first = Score(0.5, "clip-i", "avatars/clip", FIDELITY_AVERAGING)
    other = Score(0.7, "clip-i", "clip-vit-b-32", FIDELITY_AVERAGING)
    assert not first.comparable_with(other) and first.column != other.column
    with pytest.raises(UserError, match="different things"):
        mean_score([first, other], "subjects")
    with pytest.raises(UserError, match="no scores"):
        mean_score([], "subjects")
    mean = mean_score([first, Score(0.7, "clip-i", "avatars/clip", FIDELITY_AVERAGING)], "subjects")
    assert mean.value == pytest.approx(0.6)
    assert mean.averaging == "references > images > prompts > subjects"
    assert mean.column == "clip-i (avatars/clip, mean over references > images > prompts > subjects)"
    assert mean_score([Score(1.0, "psnr", "pixels")], "images").column == "psnr (pixels, mean over images)"
