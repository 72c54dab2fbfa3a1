"""HyperStyle: published names, files, rounds, and weights that change for one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

import unified
from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.encoders import train as training
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.hypernetwork import Hypernetwork, HypernetworkConfig, WeightInverter
from backbones.stylegan.encoders.plan import PLANS, changed_layers
from backbones.stylegan.encoders.stored import load_inverter, save_inverter
from backbones.stylegan.formats.encoder_networks import load_inverter_file
from inversion.methods.learned import Learned
from tests.tiny.encoders import config_of, published, style_inverter
from tests.tiny.families import pictures
from tests.tiny.gan import stylegan
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert, invert_many

TINY = stylegan().generator.config


def inverter(*, kernel: int = 1) -> WeightInverter:
    torch.manual_seed(5)
    assert isinstance(TINY, GeneratorConfig)
    hypernet = HypernetworkConfig(
        changed_layers(TINY),
        16,
        4,
        ((4, 1), (6, 2), (8, 1), (8, 1)),
        32,
        wide=6,
        inner=6,
        shared_inner=5,
        kernel=kernel,
    )
    encoder = config_of("psp", pyramid=False, single=True, style_width=10)
    made = WeightInverter(encoder, hypernet, iterations=2)
    for key, value in made.state_dict().items():
        if "running_" in key:
            value.copy_(torch.rand_like(value) + 0.5)
    made.latent_avg.copy_(0.3 * torch.randn(16))
    return made.eval().requires_grad_(False)


def recipe_of(folder: Path, made: WeightInverter) -> Recipe:
    save_inverter(folder, made, name="hyperstyle", card="")
    method = Learned("hyperstyle", weights=str(folder), fills=("w", "weight-factors"))
    return replace(recipes.get("hyperstyle"), stages=(Stage("w & weight-factors", method),))


def picture(concept: Concept) -> torch.Tensor:
    gan = stylegan()
    with torch.no_grad(), gan.bound(concept) as view:
        return view.attempt(pictures(gan, 1), rng=Random(0)).render()


def test_names_and_shapes_are_those_of_the_published_network() -> None:
    config = GeneratorConfig(1024, (512, 512, 512, 512, 512, 256, 128, 64, 32))
    layers = changed_layers(config)
    assert [layer[0] for layer in layers] == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24]
    assert layers[9] == (14, "synthesis.b128.conv0.weight", 256, 512)
    with torch.device("meta"):
        network = Hypernetwork(HypernetworkConfig(layers, shared=512))
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    expected = {
        "conv1.weight": (64, 6, 7, 7),
        "relu.weight": (64,),
        "body.15.conv2.weight": (512, 512, 3, 3),
        "shared_weight_hypernet.w1": (512, 512 * 9),
        "shared_weight_hypernet.b2": (512 * 512,),
        "refinement_blocks.12.convs.0.weight": (128, 512, 3, 3),
        "refinement_blocks.12.convs.8.weight": (512, 128, 3, 3),
        "refinement_blocks.12.linear.weight": (512, 512),
        "refinement_blocks.12.hypernet.w2": (512, 512 * 512),
        "refinement_blocks.14.convs.0.weight": (256, 512, 3, 3),
        "refinement_blocks.14.convs.4.weight": (512, 256, 3, 3),
        "refinement_blocks.14.output.1.weight": (256 * 512, 512, 1, 1),
        "refinement_blocks.24.output.1.bias": (32 * 32,),
    }
    assert {name: found[name] for name in expected} == expected
    assert not {"refinement_blocks.12.convs.10.weight", "refinement_blocks.14.convs.6.weight"} & set(found)


def test_the_weights_change_in_rounds_for_what_is_drawn(tmp_path: Path) -> None:
    """Equations 2 to 5 by hand; the concept then draws with the changed weights."""
    gan = stylegan()
    recipe = recipe_of(tmp_path, inverter())
    made = load_inverter(tmp_path)[1]
    reference = pictures(gan, 1)
    x = reference.images * 2 - 1
    ws = made.latent_avg + made.encoder(x)
    draw, total = Drawer(gan.generator), {}
    drawn = draw(ws)
    for _ in range(2):
        for path, value in made.hypernet(torch.cat([x, drawn], 1)).items():
            total[path] = total.get(path, 0) + value
        drawn = draw.offset(ws, total)
    concept = invert(gan, reference, recipe, InvertSettings())
    w, offsets = concept.codes
    assert torch.allclose(w.tensors["w"], ws[:, 0], atol=1e-5)
    assert set(offsets.tensors) == {f"{layer[1]}.delta" for layer in made.hyper.layers}
    assert torch.allclose(picture(concept), drawn / 2 + 0.5, atol=1e-4)
    loaded = Concept.load(concept.save(tmp_path / "c.safetensors"))
    assert torch.equal(picture(loaded), picture(concept))
    plain = Concept([w])
    still = offsets.map(torch.zeros_like)
    assert torch.equal(picture(Concept([w, still])), picture(plain))
    assert not torch.allclose(picture(concept), picture(plain), atol=1e-3)


def test_each_concept_has_one_picture(tmp_path: Path) -> None:
    gan, recipe = stylegan(), recipe_of(tmp_path, inverter())
    with pytest.raises(UserError, match="each picture as a concept of its own"):
        invert(gan, pictures(gan, 2), recipe, InvertSettings())
    first, other = pictures(gan, 1), Reference(pictures(gan, 1, seed=3).images, category="a", name="<you>")
    together = invert_many(gan, [first, other], recipe, InvertSettings())
    alone = invert(gan, other, recipe, InvertSettings())
    assert torch.allclose(picture(together[1]), picture(alone), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_published_files_are_read(kernel: int, tmp_path: Path) -> None:
    """The encoder into W lies in a file of its own, beside."""
    made = inverter(kernel=kernel)
    path = published(tmp_path / "hyperstyle.pt", "psp", style_inverter("psp"))
    content = torch.load(path, weights_only=True)
    state = {key: value for key, value in content["state_dict"].items() if key.startswith("decoder.")}
    state |= {f"hypernet.{key}": value for key, value in made.hypernet.state_dict().items()}
    options = {
        "encoder_type": "SharedWeightsHyperNetResNet",
        "n_iters_per_batch": 2,
        "w_encoder_checkpoint_path": "/a/w.pt",
    }
    torch.save({"state_dict": state, "opts": options, "latent_avg": made.latent_avg.clone()}, path)
    gan = unified.load(path)
    with pytest.raises(UserError, match=r"beside it as w\.pt"):
        gan.invert(pictures(gan, 1).images, recipe="hyperstyle")
    encoder = {f"encoder.{key}": value for key, value in made.encoder.state_dict().items()}
    torch.save({"state_dict": encoder, "opts": {"encoder_type": "WEncoder"}}, tmp_path / "w.pt")
    name, read = load_inverter_file(path)
    assert name == "hyperstyle" and read.settings() == made.settings()
    for key, value in made.state_dict().items():
        assert "num_batches" in key or torch.equal(read.state_dict()[key], value)
    concept = gan.invert(pictures(gan, 1).images, recipe="hyperstyle")
    size = concept.codes[1].tensors["synthesis.b8.conv1.weight.delta"].shape
    assert size == (16, 16, kernel, kernel)


def test_shared_layers_are_stored_and_held_once(tmp_path: Path) -> None:
    made = inverter()
    recipe_of(tmp_path, made)
    read = load_inverter(tmp_path)[1]
    blocks = read.hypernet.refinement_blocks
    held = {blocks[number].hypernet.w2.data_ptr() for number in ("0", "2", "3")}
    assert held == {read.hypernet.shared_weight_hypernet.w2.data_ptr()}
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        assert not any(".hypernet.w" in name for name in file.keys())  # noqa: SIM118


def test_both_networks_learn() -> None:
    gan = stylegan()
    true = pictures(gan, 6).images
    plan = replace(PLANS["hyperstyle"], make=lambda config: inverter(), batch=3, learning_rate=3e-3)
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
    for key in ("encoder.linear.weight", "hypernet.conv1.weight", "hypernet.shared_weight_hypernet.w1"):
        assert not torch.equal(before[key], teacher.inverter.state_dict()[key])
