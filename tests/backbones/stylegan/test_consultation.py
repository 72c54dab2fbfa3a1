"""HFGI: published names, files, alignment, and details that follow an edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from backbones.stylegan.encoders import train as training
from backbones.stylegan.encoders.consultation import Alignment, Consultation, ConsultationConfig, ConsultingInverter
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.plan import PLANS
from backbones.stylegan.encoders.stored import load_inverter, save_inverter
from backbones.stylegan.encoders.warping import homography, perspective
from backbones.stylegan.formats.encoder_networks import load_inverter_file
from inversion.methods.learned import Learned
from inversion.spaces.distortion import Distortion
from inversion.spaces.style import WPlus
from tests.tiny.encoders import config_of, published, style_inverter
from tests.tiny.families import pictures
from tests.tiny.gan import stylegan
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, runnable
from unified.contract.view import View
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SMALL = ConsultationConfig("b16.conv0", 8, 16, (3, 4, 5, 6), (4, 5, 6))


def inverter(*, seed: int = 3, consultation: ConsultationConfig = SMALL) -> ConsultingInverter:
    torch.manual_seed(seed)
    made = ConsultingInverter(config_of("e4e"), consultation)
    made.begin_with(style_inverter("e4e"))
    return made.eval().requires_grad_(False)


def in_folder(folder: Path, made: ConsultingInverter) -> Recipe:
    save_inverter(folder, made, name="hfgi", card="")
    space = Distortion(weights=str(folder))
    method = Learned("hfgi", weights=str(folder), fills=("w+", "distortion"))
    return replace(recipes.get("hfgi"), stages=(Stage((WPlus(), space), method),))


def picture(view: View, count: int) -> torch.Tensor:
    return view.attempt(pictures(view.backbone, count), rng=Random(0)).render()


def test_names_and_shapes_are_those_of_the_published_networks() -> None:
    with torch.device("meta"):
        residue = Consultation(ConsultationConfig()).state_dict()
        align = Alignment(ConsultationConfig()).state_dict()
    for found, expected in (
        (
            residue,
            {
                "conv_layer1.0.weight": (32, 3, 3, 3),
                "conv_layer1.2.weight": (32,),
                "conv_layer2.0.shortcut_layer.0.weight": (48, 32, 1, 1),
                "conv_layer2.1.res_layer.1.weight": (48, 48, 3, 3),
                "conv_layer3.2.res_layer.4.running_var": (64,),
                "condition_scale3.0.weight": (512, 64, 3, 3),
                "condition_scale3.2.bias": (512,),
                "condition_shift3.2.weight": (512, 512, 3, 3),
            },
        ),
        (
            align,
            {
                "conv_layer1.0.weight": (16, 6, 3, 3),
                "conv_layer4.0.res_layer.1.weight": (64, 48, 3, 3),
                "dconv_layer1.0.res_layer.1.weight": (64, 112, 3, 3),
                "dconv_layer1.1.shortcut_layer.0.weight": (32, 64, 1, 1),
                "dconv_layer2.0.res_layer.0.weight": (64,),
                "dconv_layer2.1.res_layer.3.weight": (16, 16, 3, 3),
                "dconv_layer3.0.shortcut_layer.1.weight": (16,),
                "dconv_layer3.2.res_layer.3.weight": (3, 3, 3, 3),
            },
        ),
    ):
        assert {name: tuple(found[name].shape) for name in expected} == expected
        assert not any("res_layer.5" in name or "resample" in name for name in found)


def test_published_files_are_read(tmp_path: Path) -> None:
    made = inverter(consultation=replace(SMALL, place="b64.conv0", size=64))
    path = published(tmp_path / "a.pt", "e4e", style_inverter("e4e"))
    content = torch.load(path, weights_only=True)
    content["state_dict"] |= {k: v for k, v in made.state_dict().items() if k.startswith(("residue.", "grid_align."))}
    torch.save(content, path)
    name, read = load_inverter_file(path)
    assert name == "hfgi" and read.settings() == made.settings()
    for key, value in made.state_dict().items():
        assert "num_batches" in key or torch.equal(read.state_dict()[key], value)
    del content["state_dict"]["residue.conv_layer3.2.res_layer.3.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match="HFGI's networks"):
        load_inverter_file(path)


def test_corners_go_where_they_are_sent() -> None:
    source = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    target = torch.tensor([[[-0.8, -0.9], [1.0, -0.7], [0.9, 1.0], [-1.0, 0.6]]])
    maps = homography(source, target)
    found = torch.cat([source, torch.ones(1, 4, 1)], 2) @ maps.transpose(1, 2)
    assert torch.allclose(found[..., :2] / found[..., 2:], target, atol=1e-5)
    images, random = torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)
    assert torch.allclose(perspective(images, random, amount=0.0, share=1.0), images, atol=1e-5)
    assert torch.allclose(perspective(images, random, amount=0.5, share=0.0), images, atol=1e-5)
    assert not torch.allclose(perspective(images, random, amount=0.5, share=1.0), images, atol=1e-2)


def test_features_are_changed_by_what_is_missing(tmp_path: Path) -> None:
    """Equations 2 to 6 by hand."""
    gan, made = stylegan(), inverter()
    recipe = in_folder(tmp_path, made)
    made = load_inverter(tmp_path)[1]
    reference = pictures(gan, 2)
    concept = invert(gan, reference, recipe, InvertSettings())
    w, missing = concept.codes
    ws = made.latent_avg + made.encoder(reference.images * 2 - 1)
    assert torch.allclose(w.tensors["w"], ws, atol=1e-5)
    drawn = gan.synthesis(ws).clamp(-1, 1)
    assert torch.allclose(missing.tensors["missing"], reference.images * 2 - 1 - drawn, atol=1e-5)
    scale, shift = made.residue(made.grid_align(missing.tensors["missing"], drawn))
    changed = Drawer(gan.generator).featured(ws, {"b16.conv0/scale": scale, "b16.conv0/shift": shift})
    with torch.no_grad(), gan.bound(concept) as view:
        assert torch.allclose(picture(view, 2), changed / 2 + 0.5, atol=1e-5)
    loaded = Concept.load(concept.save(tmp_path / "c.safetensors"))
    with torch.no_grad(), gan.bound(loaded) as view, gan.bound(concept) as other:
        assert torch.equal(picture(view, 2), picture(other, 2))


def test_after_an_edit_the_alignment_is_asked_again(tmp_path: Path) -> None:
    gan, made = stylegan(), inverter()
    recipe = in_folder(tmp_path, made)
    made = load_inverter(tmp_path)[1]
    concept = invert(gan, pictures(gan, 1), recipe, InvertSettings())
    w, missing = concept.codes
    moved = w.map(lambda value: value + 0.5)
    drawn = gan.synthesis(moved.tensors["w"]).clamp(-1, 1)
    scale, shift = made.residue(made.grid_align(missing.tensors["missing"], drawn))
    expected = Drawer(gan.generator).featured(moved.tensors["w"], {"b16.conv0/scale": scale, "b16.conv0/shift": shift})
    with torch.no_grad(), gan.bound(concept.with_codes([moved, missing])) as view:
        assert torch.allclose(picture(view, 1), expected / 2 + 0.5, atol=1e-5)


def test_without_a_change_of_features_it_is_e4e(tmp_path: Path) -> None:
    gan, made = stylegan(), inverter()
    for head in (made.residue.condition_scale3, made.residue.condition_shift3):
        head[2].weight.zero_()
    concept = invert(gan, pictures(gan, 2), in_folder(tmp_path, made), InvertSettings())
    with torch.no_grad(), gan.bound(concept) as view, gan.bound(Concept(concept.codes[:1])) as plain:
        assert torch.equal(picture(view, 2), picture(plain, 2))


def test_other_weights_and_backbones_are_refused(tmp_path: Path) -> None:
    gan = stylegan()
    concept = invert(gan, pictures(gan, 1), in_folder(tmp_path, inverter()), InvertSettings())
    save_inverter(tmp_path, inverter(seed=4), name="hfgi", card="")
    with pytest.raises(UserError, match="Load the encoder that it was made with"), stylegan().bound(concept):
        pass
    with pytest.raises(UserError, match="encoder-hfgi"):
        gan.invert(pictures(gan, 1).images, recipe="hfgi")
    assert "hfgi" in runnable(type(gan))


def test_training_brings_details_back_and_leaves_e4e_alone() -> None:
    gan, base = stylegan(), style_inverter("e4e")
    true = pictures(gan, 6).images
    plan = replace(
        PLANS["hfgi"], make=lambda config: ConsultingInverter(config_of("e4e"), SMALL), batch=3, learning_rate=3e-3
    )
    teacher = training.Trainer(
        plan,
        gan.generator,
        lambda chosen: true[chosen],
        len(true),
        steps=40,
        seed=0,
        accelerator=Accelerator(cpu=True),
        perceptual=lambda a, b: (a - b).abs().flatten(1).mean(1),
        identity=lambda a, b: (a - b).abs().flatten(1).mean(1),
        base=base,
    )
    logs = [teacher.step(step) for step in range(40)]
    mean = [sum(log["squared"] for log in part) for part in (logs[:5], logs[-5:])]
    assert mean[1] < 0.9 * mean[0] and logs[-1]["alignment"] > 0
    for key, value in base.state_dict().items():
        assert torch.equal(teacher.inverter.state_dict()[key], value), key


def test_a_base_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="build that one again"):
        inverter().begin_with(style_inverter("psp", style_width=9))
    with pytest.raises(UserError, match="does not know"):
        ConsultationConfig.from_dict({"colour": 1})
