"""Training of the next-scale model and of its tokenizer, on a few drawn pictures."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from backbones.autoregressive.train.var import VarSettings, train_var
from backbones.autoregressive.train.var_tokenizer import VarTokenizerSettings, load_tokenizer, train_var_tokenizer
from backbones.autoregressive.var import Var, load_folder
from tests.tiny.var import TINY_SCALES, tiny_tokenizer
from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.dataset import AvatarSet
from unified.contract.random import Random
from unified.contract.target import Target
from unified.errors import UserError
from unified.zoo.registry import zoo
from unified.zoo.training import BuildSettings

SMALL = VarSettings(scales=TINY_SCALES, width=32, depth=2, heads=2, text_depth=1, steps=60, batch=8, warmup=5)


def simple_pictures(count: int) -> numpy.ndarray:
    """Two colours, one above the other."""
    colours = numpy.random.default_rng(0).integers(0, 255, (count, 2, 1, 3), dtype=numpy.uint8)
    return colours.repeat(8, axis=1).repeat(16, axis=2)


def avatars(count: int) -> AvatarSet:
    """Pictures of two colours with random attributes."""
    rng = numpy.random.default_rng(1)
    return AvatarSet(
        images=simple_pictures(count),
        masks=numpy.ones((count, 16, 16), dtype=bool),
        attributes=numpy.stack([rng.integers(0, len(values), count) for values in ATTRIBUTES.values()], axis=1),
        person=numpy.arange(count),
        shades=numpy.zeros((count, 6), dtype=numpy.float32),
    )


def losses(work: Path, name: str) -> list[float]:
    lines = (work / "log.txt").read_text(encoding="utf-8").splitlines()
    return [float(line.split(f"{name} ")[1].split()[0]) for line in lines]


def test_tokenizer_learns_and_is_exported(tmp_path: Path) -> None:
    images = simple_pictures(64)
    settings = VarTokenizerSettings(scales=TINY_SCALES, steps=100, batch=4, continuous=20, learning_rate=3e-3)
    trained = train_var_tokenizer(
        BuildSettings(out=tmp_path / "out", work=tmp_path / "work"),
        settings,
        images=images,
        held_out=images,
        perceptual=None,
    )
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    fresh = tiny_tokenizer()
    before, after = ((t.decode(t.encode(pictures)) - pictures).abs().mean() for t in (fresh, trained))
    assert after < 0.7 * before
    assert losses(tmp_path / "work", "quantiser")[-1] < 0.1
    assert len(trained.encode(torch.from_numpy(images[:32]).permute(0, 3, 1, 2) / 255).unique()) > 4
    loaded = load_tokenizer(tmp_path / "out", TINY_SCALES)
    codes = torch.randint(0, 16, (2, 21))
    assert torch.allclose(loaded.decode(codes), trained.decode(codes), atol=2e-2)
    assert "PSNR" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="avatars/var-tokenizer"):
        load_tokenizer(tmp_path / "nowhere", TINY_SCALES)


def test_training_lowers_the_loss_and_exports_a_model_that_draws(tmp_path: Path) -> None:
    data = avatars(12)
    settings = BuildSettings(out=tmp_path / "out", work=tmp_path / "work")
    train_var(settings, SMALL, tokenizer=tiny_tokenizer().requires_grad_(False), data=data, held_out=data)
    curve = losses(tmp_path / "work", "loss")
    assert curve[-1] < curve[0]
    backbone = load_folder(tmp_path / "out", "x")
    assert isinstance(backbone, Var)
    with backbone.bound() as view:
        assert view.sample(Target(prompt="a smiling person", n=2), rng=Random(0)).shape == (2, 3, 16, 16)
    assert "samples.png" in {path.name for path in (tmp_path / "out").iterdir()}


def test_resumed_training_is_unbroken_training(tmp_path: Path) -> None:
    data = avatars(12)

    def trained(name: str, *steps: int) -> torch.Tensor:
        for count in steps:
            parts = train_var(
                BuildSettings(out=tmp_path / name / "out", work=tmp_path / name / "work", steps=count),
                VarSettings(**{**SMALL.__dict__, "warmup": 1000}),  # a rate that does not know the last step
                tokenizer=tiny_tokenizer().requires_grad_(False),
                data=data,
                held_out=data,
            )
        return parts.model.head.weight.detach().clone()

    assert torch.equal(trained("whole", 6), trained("broken", 3, 6))


def test_both_models_are_in_the_zoo() -> None:
    assert zoo.get("avatars/var").needs == ("avatars/var-tokenizer",)
    assert callable(zoo.get("avatars/var").builder()) and callable(zoo.get("avatars/var-tokenizer").builder())
