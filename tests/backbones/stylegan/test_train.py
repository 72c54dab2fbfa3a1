"""The losses in closed form; the training step resumes exactly and exports what can be loaded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from backbones.stylegan import DiscriminatorConfig, GeneratorConfig
from backbones.stylegan.descriptions import Descriptions
from backbones.stylegan.formats import load_networks
from backbones.stylegan.formats.tensors import save_networks
from backbones.stylegan.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from backbones.stylegan.train import MixingGenerator, Pictures, Recipe, Trainer, train
from unified.errors import UserError
from unified.zoo.training import BuildSettings

TINY = Recipe(
    generator=GeneratorConfig(8, (6, 4), w_dim=4, z_dim=4, mapping_layers=2),
    discriminator=DiscriminatorConfig(8, (6, 4)),
    batch=4,
    r1_interval=3,
    path_interval=2,
)


def pictures(count=12, size=8):
    return Pictures(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_losses_at_known_logits():
    zero = torch.zeros(2, 1)
    torch.testing.assert_close(generator_loss(zero), torch.full((2, 1), math.log(2)))
    torch.testing.assert_close(discriminator_loss(zero, zero), torch.full((2, 1), 2 * math.log(2)))
    one = torch.ones(2, 1)
    sigmoid = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(generator_loss(one), torch.full((2, 1), -math.log(sigmoid)))


def test_r1_of_a_linear_function_is_the_norm_of_its_weights():
    weight = torch.randn(3, 4, 4, dtype=torch.float64)
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (images * weight).sum((1, 2, 3))
    torch.testing.assert_close(r1_penalty(logits, images), weight.square().sum().expand(5))


def test_path_length_of_a_linear_generator():
    """For pictures A sum_l w_l, the expected squared length is |A|^2 / pixels."""
    torch.manual_seed(0)
    basis = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    ws = torch.randn(4000, 2, 3, dtype=torch.float64, requires_grad=True)
    images = torch.einsum("nd,dchw->nchw", ws.sum(1), basis)
    lengths = path_lengths(images, ws, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lengths.square().mean(), basis.square().sum() / 16, rtol=0.05, atol=0)


def test_style_mixing_uses_the_other_code_from_the_crossover_on():
    trainer = Trainer(TINY, pictures(), seed=0, accelerator=Accelerator(cpu=True))
    mapping = trainer.generator.mapping
    z, other = torch.randn(2, 3, 4)
    ws = MixingGenerator(trainer.generator)(z, other, torch.tensor([1, 3, 4]), torch.Generator())[1]
    w, w_other = mapping.map_one(z), mapping.map_one(other)
    for n, crossover in enumerate((1, 3, 4)):
        for layer in range(4):
            torch.testing.assert_close(ws[n, layer], (w if layer < crossover else w_other)[n])


def test_pictures_are_a_function_of_the_generator_and_in_range():
    data = pictures()
    chosen = data.choose(6, torch.Generator().manual_seed(1))
    assert torch.equal(chosen, data.choose(6, torch.Generator().manual_seed(1)))
    first = data.take(chosen)
    assert first.shape == (6, 3, 8, 8) and first.min() >= -1 and first.max() <= 1
    with pytest.raises(UserError, match="uint8"):
        Pictures(np.zeros((2, 8, 8, 3), dtype=np.float32))


def settings(tmp_path, name, steps):
    return BuildSettings(out=tmp_path / name / "out", work=tmp_path / name / "work", steps=steps)


def test_three_and_three_steps_are_six(tmp_path):
    whole = train(settings(tmp_path, "whole", 6), TINY, pictures())
    train(settings(tmp_path, "parts", 3), TINY, pictures())
    parts = train(settings(tmp_path, "parts", 6), TINY, pictures())
    for name in ("generator", "discriminator", "average", "path"):
        a, b = whole.state[name].state_dict(), parts.state[name].state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)
    untrained = Trainer(TINY, pictures(), seed=0, accelerator=Accelerator(cpu=True)).generator
    assert not torch.equal(untrained.synthesis.b8.conv0.weight, whole.generator.synthesis.b8.conv0.weight)
    assert whole.generator.mapping.w_avg.abs().max() > 0
    assert whole.path.mean > 0


def test_the_export_is_the_average_in_half_precision(tmp_path):
    run = settings(tmp_path, "run", 2)
    trainer = train(run, TINY, pictures())
    generator, discriminator = load_networks(run.out / "networks.safetensors")
    assert generator.config == TINY.generator and discriminator.config == TINY.discriminator
    for key, value in trainer.average.module.state_dict().items():
        assert torch.equal(generator.state_dict()[key], value.half().float())
    big = trainer.average.module.mapping.fc0.weight
    with torch.no_grad():
        big[0, 0] = 1e5  # more than half precision holds
    save_networks(run.out / "big.safetensors", trainer.average.module, dtype=torch.float16)
    assert torch.equal(load_networks(run.out / "big.safetensors")[0].mapping.fc0.weight, big)
    assert "2 steps of 4 pictures (8 in all)" in (run.out / "card.md").read_text()
    assert json.loads((run.out / "config.json").read_text())["batch"] == 4
    assert (run.out / "samples.png").stat().st_size > 100


def test_the_discriminator_learns_to_tell(tmp_path):
    """Black pictures against what an untrained generator draws: told apart within a few steps."""
    data = Pictures(np.zeros((8, 8, 8, 3), dtype=np.uint8))
    trainer = Trainer(TINY, data, seed=0, accelerator=Accelerator(cpu=True))
    logs = [trainer.step(step) for step in range(25)]
    assert logs[-1]["loss_d"] < logs[0]["loss_d"]
    assert max(log["real"] - log["fake"] for log in logs) > 1.0


def test_a_batch_that_does_not_fit_the_groups_is_refused():
    from dataclasses import replace

    with pytest.raises(UserError, match="multiple of 4"):
        Trainer(replace(TINY, batch=6), pictures(), seed=0, accelerator=Accelerator(cpu=True))


def test_a_pretrained_and_anchored_training_resumes_exactly_too(tmp_path, monkeypatch):
    """With the start, the head start and the anchor; the start is read back, not trained again."""
    from dataclasses import replace

    from backbones.stylegan import pretrain

    monkeypatch.setattr(pretrain, "write_mapping", lambda *_: None)
    channels = (6, 4, 4, 4)
    recipe = replace(
        TINY,
        generator=GeneratorConfig(32, channels, w_dim=4, z_dim=4, mapping_layers=2),
        discriminator=DiscriminatorConfig(32, channels),
        pretraining=2,
        head_start=1,
        anchor=1.0,
        anchored=2,
    )
    data = pictures(size=32)
    known = Descriptions(data.images, torch.arange(12)[:, None] % 3, (3,), torch.rand(12, 1), (0,), (2,))
    whole = train(settings(tmp_path, "whole", 4), recipe, data, known)
    train(settings(tmp_path, "halves", 2), recipe, data, known)
    resumed = train(settings(tmp_path, "halves", 4), recipe, data, known)
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(value, resumed.generator.state_dict()[name]), name
    plain = train(settings(tmp_path, "plain", 4), replace(recipe, anchor=0.0), data, known)
    assert not torch.equal(plain.generator.synthesis.b4.const, whole.generator.synthesis.b4.const)
    with pytest.raises(UserError, match="needs descriptions"):
        train(settings(tmp_path, "untold", 4), recipe, data)
