"""The image tokenizer against transformers' own encode and decode, and its gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import Emu3VQVAE

from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.train.tokenizer import vq_config
from tests.tiny.autoregressive import TINY_TOKENIZER, tiny_vq
from unified.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    return ImageTokenizer(tiny_vq().requires_grad_(False))


@pytest.mark.parametrize("frames", [1, 4])
def test_equals_transformers(frames: int) -> None:
    config = vq_config(TINY_TOKENIZER)
    config.temporal_downsample_factor = frames
    torch.manual_seed(1)
    vq = Emu3VQVAE(config).eval()
    vq.quantize.embedding.weight.data.mul_(0.1)
    tokenizer = ImageTokenizer(vq)
    images = torch.rand(3, 3, 16, 16)
    sizes = torch.tensor([[16, 16]] * 3)
    expected = torch.stack(vq.encode(images * 2 - 1, sizes).image_tokens)
    codes = tokenizer.encode(images)
    assert torch.equal(codes, expected)
    assert torch.allclose(tokenizer.decode(codes), (vq.decode(codes) / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_nearest_is_the_smallest_distance(tokenizer: ImageTokenizer) -> None:
    latents = torch.randn(2, 4, 4, 4)
    distances = (latents[:, None] - tokenizer.codebook[None, :, :, None, None]).square().sum(2)
    assert torch.equal(tokenizer.nearest(latents), distances.argmin(1))


def test_quantize_passes_the_gradient_straight_through(tokenizer: ImageTokenizer) -> None:
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    vectors, codes = tokenizer.quantize(latents)
    assert torch.allclose(vectors, tokenizer.lookup(codes), atol=1e-6)
    weight = torch.randn_like(vectors)
    (vectors * weight).sum().backward()
    assert torch.equal(latents.grad, weight)


def test_decoding_is_differentiable(tokenizer: ImageTokenizer) -> None:
    double = ImageTokenizer(tiny_vq().double().requires_grad_(False))
    vectors = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(vectors)
    double.decode_embeddings(vectors).square().sum().backward()
    with torch.no_grad():
        up, down = (double.decode_embeddings(vectors + s * 1e-5 * direction).square().sum() for s in (1, -1))
    slope = float((vectors.grad * direction).sum())
    assert abs(float(up - down) / 2e-5 - slope) < 1e-5 * abs(slope)


def test_codes_do_not_depend_on_the_batch(tokenizer: ImageTokenizer) -> None:
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(tokenizer.encode(images), torch.cat([tokenizer.encode(x[None]) for x in images]))
    assert tokenizer.encode(images).unique().numel() > 4


def test_bad_input_is_refused(tokenizer: ImageTokenizer) -> None:
    with pytest.raises(UserError, match="multiples of 4"):
        tokenizer.encode(torch.rand(1, 3, 18, 16))
    with pytest.raises(UserError, match=r"0\.\.15"):
        tokenizer.decode(torch.full((1, 4, 4), 16))
