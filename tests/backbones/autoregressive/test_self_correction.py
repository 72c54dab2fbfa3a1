"""Coarse scales that are read wrongly, and what is then left to predict."""

from __future__ import annotations

import torch

from backbones.autoregressive.scales import MultiScaleTokenizer, ScaleSettings
from backbones.autoregressive.train.self_correction import wrong_and_right

SETTINGS = ScaleSettings(sides=(1, 2, 4), codes=24, dimension=4, channels=(8, 8))


def _tokenizer() -> MultiScaleTokenizer:
    torch.manual_seed(0)
    return MultiScaleTokenizer(SETTINGS).eval().requires_grad_(False)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_without_errors_what_is_read_is_what_is_predicted() -> None:
    tokenizer = _tokenizer()
    codes = torch.randint(24, (5, SETTINGS.count), generator=_generator())
    read, right = wrong_and_right(tokenizer, codes, share=0.0, generator=_generator())
    assert torch.equal(read, right)
    assert torch.equal(read, tokenizer.rounding(tokenizer.sums(codes)[-1]).codes)


def test_every_target_is_the_nearest_to_what_the_wrong_tokens_before_leave() -> None:
    tokenizer = _tokenizer()
    codes = torch.randint(24, (40, SETTINGS.count), generator=_generator())
    read, right = wrong_and_right(tokenizer, codes, share=1.0, near=8, generator=_generator())
    levels = SETTINGS.levels()
    wrong = read != right
    assert not bool(wrong[:, levels == 2].any())  # nothing comes after the last scale
    assert 0.25 < float(wrong[:, levels < 2].float().mean()) < 0.6  # half of them on average, an eighth of these right
    left = tokenizer.sums(codes)[-1]
    for scale, (seen, wanted) in enumerate(zip(tokenizer.maps(read), tokenizer.maps(right), strict=True)):
        assert torch.equal(tokenizer.nearest(tokenizer.shrink(left, scale))[:, 0], wanted)
        left = left - tokenizer.contribution(scale, tokenizer.lookup(seen))


def test_predicting_right_mends_the_picture() -> None:
    """After wrong coarse tokens, the targets lead nearer to the picture than the true tokens would."""
    tokenizer = _tokenizer()
    codes = torch.randint(24, (40, SETTINGS.count), generator=_generator())
    read, right = wrong_and_right(tokenizer, codes, share=1.0, generator=_generator())
    _, true = wrong_and_right(tokenizer, codes, share=0.0, generator=_generator())
    goal, last = tokenizer.sums(codes)[-1], SETTINGS.levels() == 2
    naive = torch.where(last, true, read)
    mended = torch.where(last, right, read)
    errors = [(tokenizer.sums(each)[-1] - goal).square().mean() for each in (mended, naive)]
    assert errors[0] < errors[1]
