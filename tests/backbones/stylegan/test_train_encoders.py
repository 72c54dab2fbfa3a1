"""Training of the encoders: the papers' terms in closed form, steps that resume exactly, files that load."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from backbones.stylegan.encoders import train as training
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.inverter import StyleInverter
from backbones.stylegan.encoders.losses import LossWeights, Pool, likeness, one_of_each, regularity, unlocked_at
from backbones.stylegan.encoders.plan import PLANS, Plan
from backbones.stylegan.encoders.stored import load_inverter
from tests.tiny.encoders import config_of
from tests.tiny.gan import stylegan
from unified.picture_encoders import encoder_of
from unified.zoo.training import BuildSettings


def distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first - second).abs().flatten(1).mean(1)


def tiny_plan(name: str) -> Plan:
    rounds = 2 if name.startswith("restyle") else 1
    return replace(PLANS[name], make=lambda config: StyleInverter(config_of(name), iterations=rounds), batch=3)


def drawings(count: int = 12) -> np.ndarray:
    """Pictures of the generator itself."""
    gan = stylegan()
    z = torch.randn(count, 16, generator=torch.Generator().manual_seed(0))
    pictures = (gan.synthesis(gan.mapping(z)) / 2 + 0.5).clamp(0, 1)
    return pictures.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def trainer(name: str, *, steps: int = 10) -> training.Trainer:
    images = drawings()
    return training.Trainer(
        tiny_plan(name),
        stylegan().generator,
        lambda chosen: torch.from_numpy(images[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255,
        len(images),
        steps=steps,
        seed=0,
        accelerator=Accelerator(cpu=True),
        perceptual=distance,
        identity=distance,
    )


def run(name: str, folder: Path, steps: int, *, total: int = 10) -> training.Trainer:
    return training.train(
        BuildSettings(out=folder / "out", work=folder / "work", steps=steps, batch=3),
        replace(tiny_plan(name), steps=total),
        stylegan().generator,
        drawings(),
        drawings(5),
        fingerprint=stylegan().fingerprint,
        perceptual=distance,
        identity=distance,
    )


def test_terms_in_closed_form() -> None:
    weights = LossWeights(norm=0.5, offset=2.0)
    true, drawn = torch.full((2, 3, 4, 4), -1.0), torch.full((2, 3, 4, 4), 0.0)
    terms = likeness(drawn, true, weights, distance, distance)
    assert {key: round(value.item(), 6) for key, value in terms.items()} == {
        "squared": 1.0,
        "perceptual": 0.8 * 0.5,
        "identity": 0.1 * 0.5,
    }
    ws = torch.zeros(2, 4, 9)
    ws[:, 1], ws[:, 3] = 1.0, 2.0
    terms = regularity(ws, torch.zeros(4, 9), 2, weights)
    assert terms["offset"].item() == pytest.approx(2.0 * 3.0)  # |1 - 0| in 9 dimensions; the last one is locked
    assert terms["norm"].item() == pytest.approx(0.5 * math.sqrt(9 + 36))
    assert "offset" not in regularity(ws, torch.zeros(4, 9), 2, LossWeights())


def test_offsets_are_unlocked_as_in_the_paper() -> None:
    """Of 200 000 steps: none before 20 000, the first one there, then one each 2000; all 17 from 52 000."""
    at = {
        step: unlocked_at(step / 200_000, 18) for step in (0, 19_999, 20_000, 21_999, 22_000, 50_000, 52_000, 199_999)
    }
    assert list(at.values()) == [0, 0, 1, 1, 2, 16, 17, 17]


def test_the_judge_sees_old_style_vectors_too() -> None:
    pool, random = Pool(4, 2), torch.Generator().manual_seed(0)
    first = torch.arange(8.0).reshape(4, 2)
    assert torch.equal(pool.mixed(first, random), first) and pool.count == 4
    seen = pool.mixed(first + 100, random)
    old = seen[:, 0] < 100
    assert 0 < old.sum() < 4
    # Nothing is lost: what came out and what is kept are what went in.
    everything = torch.cat([seen, pool.kept])[:, 0].sort().values
    assert torch.equal(everything, torch.cat([first, first + 100])[:, 0].sort().values)


def test_only_unlocked_styles_are_judged() -> None:
    ws = torch.arange(5.0).expand(200, 5)[..., None].clone()
    assert set(one_of_each(ws, 2, torch.Generator().manual_seed(0))[:, 0].tolist()) == {0.0, 1.0, 2.0}


def test_pictures_with_weights_of_their_own_are_those_of_changed_networks() -> None:
    gan = stylegan()
    draw = Drawer(gan.generator)
    ws = torch.randn(2, 8, 16)
    path = "synthesis.b8.conv1.weight"
    offset = 0.3 * torch.randn(2, 16, 16, 1, 1)
    drawn = draw.offset(ws, {path: offset})
    for row in range(2):
        other = stylegan()
        weight = other.generator.get_parameter(path)
        weight.data = weight.data * (1 + offset[row])
        assert torch.allclose(drawn[row], Drawer(other.generator)(ws[row : row + 1])[0], atol=1e-5)
    assert torch.allclose(draw.offset(ws, {path: torch.zeros(2, 1, 1, 1, 1)}), draw(ws), atol=1e-5)


@pytest.mark.parametrize("name", ["psp", "restyle-e4e"])
def test_pictures_come_nearer(name: str) -> None:
    teacher = trainer(name, steps=40)
    losses = [teacher.step(step)["squared"] for step in range(40)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert all(p.grad is None for p in teacher.generator.parameters())


def test_e4e_is_judged_and_the_judge_learns() -> None:
    teacher = trainer("e4e", steps=40)
    before = {key: value.clone() for key, value in teacher.judge.state_dict().items()}
    logs = [teacher.step(step) for step in range(12)]
    assert {"judged", "judge", "offset", "squared", "perceptual", "identity"} <= set(logs[-1])
    assert logs[0]["offset"] == 0.0 and logs[-1]["offset"] > 0.0
    assert any(not torch.equal(before[key], value) for key, value in teacher.judge.state_dict().items())


@pytest.mark.parametrize("name", ["e4e", "restyle-psp"])
def test_resuming_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "schedule", lambda step, steps: 1.0)  # it depends on the number of all steps
    monkeypatch.setattr(training, "unlocked_at", lambda progress, num_ws: 3)
    whole = run(name, tmp_path / "whole", 6)
    run(name, tmp_path / "parts", 3)
    parts = run(name, tmp_path / "parts", 6)
    for key, value in whole.inverter.state_dict().items():
        assert torch.equal(value, parts.inverter.state_dict()[key]), key
    assert torch.equal(whole.pools.found.kept, parts.pools.found.kept)


def test_what_is_exported_inverts(tmp_path: Path) -> None:
    run("e4e", tmp_path, 2)
    name, inverter = load_inverter(tmp_path / "out")
    gan = stylegan()
    assert name == "e4e" and inverter.generator == gan.fingerprint
    assert encoder_of(gan, "e4e", str(tmp_path / "out")).fingerprint == inverter.fingerprint
    card = (tmp_path / "out" / "card.md").read_text()
    assert "unified zoo build avatars/encoder-e4e --steps 2 --batch 3" in card and "LPIPS-Alex" in card
    assert (tmp_path / "out" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_every_encoder_can_be_built_by_name_and_is_small() -> None:
    from backbones.stylegan.config import GeneratorConfig
    from unified.zoo.registry import zoo

    config = GeneratorConfig(64, (128, 128, 96, 48, 24), w_dim=128, z_dim=128, mapping_layers=6)
    for name, plan in PLANS.items():
        model = zoo.get(f"avatars/encoder-{name}")
        assert callable(model.builder()) and "avatars/stylegan2" in model.needs
        with torch.device("meta"):
            inverter = plan.make(config)
        stored = [value for key, value in inverter.state_dict().items() if key not in inverter.aliases()]
        assert 2 * sum(value.numel() for value in stored) < 4e6, name
