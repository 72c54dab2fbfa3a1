"""Training of the image tokenizer: resuming, the codebook average, the export."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from accelerate import Accelerator
from transformers import Emu3VQVAE

from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.train.codebook import CodebookAverage
from backbones.autoregressive.train.tokenizer import TokenizerSettings, train_tokenizer
from unified.zoo.training import BuildSettings

SMALL = TokenizerSettings(codes=16, dimension=4, multiplier=(1, 1), warmup=2, lpips=0.0, continuous=2)


@pytest.fixture(scope="module")
def pictures() -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=numpy.uint8)


def train(folder: Path, pictures: numpy.ndarray, steps: int, settings: TokenizerSettings = SMALL) -> ImageTokenizer:
    build = BuildSettings(out=folder / "out", work=folder / "work", steps=steps, batch=4)
    return train_tokenizer(build, settings, images=pictures, held_out=pictures[:4], perceptual=None)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, pictures: numpy.ndarray) -> None:
    whole = train(tmp_path / "whole", pictures, 4)
    build = BuildSettings(out=tmp_path / "parts/out", work=tmp_path / "parts/work", steps=4, batch=4, minutes=0.0)
    for _ in range(4):  # no minutes: one step, then a checkpoint
        resumed = train_tokenizer(build, SMALL, images=pictures, held_out=pictures[:4], perceptual=None)
    for expected, found in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, found)


def test_training_lowers_the_error_and_the_export_loads(tmp_path: Path, pictures: numpy.ndarray) -> None:
    flat = numpy.repeat(numpy.repeat(pictures[:, :2, :2], 8, axis=1), 8, axis=2)
    start = train(tmp_path / "start", flat, 1)
    trained = train(tmp_path / "trained", flat, 40, replace(SMALL, learning_rate=3e-3))
    images = torch.from_numpy(flat).permute(0, 3, 1, 2) / 255

    def error(tokenizer: ImageTokenizer) -> float:
        return float((tokenizer.decode(tokenizer.encode(images)) - images).abs().mean())

    assert error(trained) < 0.7 * error(start)
    loaded = ImageTokenizer(Emu3VQVAE.from_pretrained(tmp_path / "trained/out", dtype=torch.float32).eval())
    assert abs(error(loaded) - error(trained)) < 0.01
    assert (tmp_path / "trained/out/card.md").exists()


def test_codebook_follows_the_means_of_its_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    codebook = torch.randn(3, 2)
    average = CodebookAverage(codebook, decay=0.8, dead=0.0)
    for _ in range(60):
        codes = torch.arange(3).repeat(20)
        latents = centres[codes] + 0.01 * torch.randn(60, 2, generator=generator)
        average.update(latents, codes, generator, Accelerator())
    assert torch.allclose(codebook, centres, atol=0.02)


def test_unused_codes_are_restarted_at_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.full((4, 2), 100.0)
    codebook[0] = 0.0
    average = CodebookAverage(codebook, decay=0.5, dead=0.3)
    latents = torch.randn(32, 2, generator=generator)
    restarted = [average.update(latents, torch.zeros(32, dtype=torch.long), generator, Accelerator()) for _ in range(2)]
    assert restarted == [0, 3]
    assert torch.cdist(codebook[1:], latents).min(1).values.max() < 0.1
