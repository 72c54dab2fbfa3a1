"""StyleTransformer: the computation by hand, training, and the recipe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from backbones.stylegan.encoders import train as training
from backbones.stylegan.encoders.network import pyramid
from backbones.stylegan.encoders.plan import PLANS
from backbones.stylegan.encoders.stored import load_inverter, save_inverter
from backbones.stylegan.encoders.transformer import HEADS, QueryInverter
from inversion.methods.learned import Learned
from tests.tiny.encoders import config_of
from tests.tiny.families import pictures
from tests.tiny.gan import stylegan
from unified.contract.recipe import Stage, recipes
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

STAGES = ((4, 1), (6, 1), (8, 1), (16, 1))


def inverter() -> QueryInverter:
    torch.manual_seed(2)
    made = QueryInverter(config_of("psp", stages=STAGES))
    made.latent_avg.copy_(0.3 * torch.randn(16))
    return made.eval().requires_grad_(False)


def attended(t: dict[str, Tensor], name: str, queries: Tensor, seen: Tensor) -> Tensor:
    """Multi-head attention in plain functions."""
    q, k, v = (
        functional.linear(x, w, b)
        for x, w, b in zip(
            (queries, seen, seen), t[f"{name}.in_proj_weight"].chunk(3), t[f"{name}.in_proj_bias"].chunk(3), strict=True
        )
    )
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return functional.linear(mixed.transpose(1, 2).flatten(2), t[f"{name}.out_proj.weight"], t[f"{name}.out_proj.bias"])


def test_queries_look_at_coarse_then_middle_then_fine_features(tmp_path: Path) -> None:
    gan = stylegan()
    save_inverter(tmp_path, inverter(), name="styletransformer", card="")
    made = load_inverter(tmp_path)[1]
    encoder, t = made.encoder, made.encoder.state_dict()
    reference = pictures(gan, 2)
    x = gan.mapping(t["z"][0])[:, 0].expand(2, -1, -1)
    levels = pyramid(encoder.features(reference.images * 2 - 1), encoder.latlayer1, encoder.latlayer2)
    for name, level in zip(("coarse", "medium", "fine"), levels, strict=True):
        layer = f"transformerlayer_{name}"

        def norm(x: Tensor, i: int, layer: str = layer) -> Tensor:
            return functional.layer_norm(x, (16,), t[f"{layer}.norm{i}.weight"], t[f"{layer}.norm{i}.bias"])

        x = norm(x + attended(t, f"{layer}.self_attn", x, x), 1)
        x = norm(x + attended(t, f"{layer}.multihead_attn", x, level.flatten(2).transpose(1, 2)), 2)
        wide = functional.linear(x, t[f"{layer}.linear1.weight"], t[f"{layer}.linear1.bias"]).relu()
        x = norm(x + functional.linear(wide, t[f"{layer}.linear2.weight"], t[f"{layer}.linear2.bias"]), 3)
    method = Learned("styletransformer", weights=str(tmp_path))
    recipe = replace(recipes.get("styletransformer"), stages=(Stage("w+", method),))
    found = invert(gan, reference, recipe, InvertSettings()).codes[0]
    assert torch.allclose(found.tensors["w"], made.latent_avg + x, atol=1e-4)


def test_the_published_names_are_kept() -> None:
    names = set(inverter().encoder.state_dict())
    parts = ("self_attn.in_proj_weight", "multihead_attn.out_proj.bias", "linear1.weight", "norm3.weight")
    assert {"z", "latlayer2.bias", *(f"transformerlayer_medium.{part}" for part in parts)} <= names


def test_training_moves_queries_and_networks() -> None:
    gan = stylegan()
    true = pictures(gan, 6).images
    plan = replace(PLANS["styletransformer"], make=lambda config: inverter(), batch=3, learning_rate=3e-3)
    teacher = training.Trainer(
        plan,
        gan.generator,
        lambda chosen: true[chosen],
        len(true),
        steps=25,
        seed=0,
        accelerator=Accelerator(cpu=True),
        perceptual=lambda a, b: (a - b).abs().flatten(1).mean(1),
        identity=lambda a, b: (a - b).abs().flatten(1).mean(1),
    )
    before = {key: value.clone() for key, value in teacher.inverter.state_dict().items()}
    losses = [teacher.step(step)["squared"] for step in range(25)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    for key in ("encoder.z", "encoder.input_layer.0.weight", "encoder.transformerlayer_fine.linear2.weight"):
        assert not torch.equal(before[key], teacher.inverter.state_dict()[key])


def test_features_are_as_wide_as_w() -> None:
    with pytest.raises(UserError, match="as many channels as w"):
        QueryInverter(config_of("psp"))
