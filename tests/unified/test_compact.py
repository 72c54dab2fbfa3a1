"""Weights in one byte each."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unified.compact import packed, unpacked


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
def test_rows_come_back_within_half_a_step(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, 32, 3, 3, generator=generator) * size
    weight[3] = 0
    stored = packed({"weight": weight})
    assert stored["weight"].dtype == torch.int8 and stored["weight"].shape == weight.shape
    found = unpacked(stored)["weight"]
    largest = weight.flatten(1).abs().amax(1)
    error = (found - weight).flatten(1).abs().amax(1)
    assert bool((error <= largest / 254 * 1.001).all())


def test_vectors_integers_and_what_must_be_exact_are_not_rounded_to_bytes() -> None:
    tensors = {
        "bias": torch.linspace(-1, 1, 5000),
        "small": torch.rand(4, 4),
        "count": torch.tensor(7),
        "norm.running_mean": torch.rand(64, 128),
    }
    stored = packed(tensors, exact=("running_",))
    assert stored["bias"].dtype == stored["small"].dtype == torch.float16
    found = unpacked(stored)
    assert list(found) == list(tensors)
    assert found["count"].dtype == torch.int64
    assert torch.equal(found["norm.running_mean"], tensors["norm.running_mean"])
    assert torch.allclose(found["bias"], tensors["bias"], atol=1e-3)


def test_files_that_were_not_packed_are_read_too() -> None:
    weight = torch.randn(64, 128).half()
    assert torch.equal(unpacked({"weight": weight})["weight"], weight.float())
