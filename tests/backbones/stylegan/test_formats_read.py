"""Every format people have, written by our own small writers, read back to the same networks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import unified
from backbones.stylegan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from backbones.stylegan.formats import (
    UnsafeFileError,
    load_encoder,
    load_file,
    load_official,
    load_rosinality,
    load_tensorflow,
    save_networks,
    save_rosinality,
)
from backbones.stylegan.formats.recognition import format_of
from backbones.stylegan.formats.rosinality import discriminator_to_rosinality, generator_to_rosinality
from tests.backbones.stylegan import writers
from unified.errors import UserError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"
NAMES = ("sg2_64", "sg2_32_cond", "sg2_32_resnet")
CONFIG = GeneratorConfig(32, (8, 8, 6, 5), w_dim=8, z_dim=8, mapping_layers=3, conv_clamp=256.0)
JUDGE = DiscriminatorConfig(32, (8, 8, 6, 5), conv_clamp=256.0, group_size=2)


def networks(config: GeneratorConfig = CONFIG, judge: DiscriminatorConfig = JUDGE) -> tuple[Generator, Discriminator]:
    """Networks in which no tensor is zero or equal to another."""
    found = Generator(config), Discriminator(judge)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in found:
            for name, value in network.state_dict().items():
                if not name.endswith("resample_filter"):
                    value.copy_(torch.randn(value.shape, generator=source))
    return found[0].eval().requires_grad_(False), found[1].eval().requires_grad_(False)


def same(a: torch.nn.Module | None, b: torch.nn.Module | None, *, but: tuple[str, ...] = ()) -> None:
    assert a is not None and b is not None
    assert a.config == b.config
    for name, value in b.state_dict().items():
        if name not in but:
            assert torch.equal(a.state_dict()[name], value), name
    assert not a.training and not any(p.requires_grad for p in a.parameters())


@pytest.mark.parametrize("version", ["ada", "stylegan3", "bare"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_official_pickles_of_all_versions(tmp_path, version, protocol):
    generator, discriminator = networks()
    path = tmp_path / "network.dat"  # the name says nothing
    writers.write_official(path, generator, discriminator, version=version, protocol=protocol)
    assert format_of(path) == "official .pkl"
    got, judge = load_official(path)
    same(got, generator)
    same(judge, discriminator)


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_official_conditional_and_architectures(tmp_path, architecture):
    generator, discriminator = networks(
        replace(CONFIG, architecture=architecture, c_dim=3),
        replace(JUDGE, architecture=architecture, c_dim=3, conditional_dim=8, mapping_layers=3),
    )
    writers.write_official(tmp_path / "a.pkl", generator, discriminator, version="stylegan3")
    got, judge = load_official(tmp_path / "a.pkl")
    same(got, generator)
    same(judge, discriminator)


def test_settings_are_those_of_the_layers(tmp_path):
    """The StyleGAN3 repository clamps by default, stylegan2-ada-pytorch does not: arguments alone do not tell."""
    generator, _ = networks(replace(CONFIG, conv_clamp=None, learning_rate_multiplier=0.5))
    writers.write_official(tmp_path / "a.pkl", generator, version="stylegan3")
    same(load_official(tmp_path / "a.pkl")[0], generator)


def test_pti(tmp_path):
    generator, _ = networks()
    writers.write_pti(tmp_path / "model_ABC.dat", generator)
    assert format_of(tmp_path / "model_ABC.dat") == "PTI .pt"
    got, judge = load_file(tmp_path / "model_ABC.dat")
    same(got, generator)
    assert judge is None


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensorflow(tmp_path, architecture, protocol):
    generator, discriminator = networks(
        replace(CONFIG, architecture=architecture), replace(JUDGE, architecture=architecture)
    )
    path = tmp_path / "ffhq"
    writers.write_tensorflow(path, generator, discriminator, protocol=protocol)
    assert format_of(path) == "TensorFlow .pkl"
    got, judge = load_tensorflow(path)
    biases = tuple(name for name in generator.state_dict() if name.endswith("affine.bias"))
    same(got, generator, but=biases)
    for name in biases:  # 1 is taken off and added in float32
        torch.testing.assert_close(got.state_dict()[name], generator.state_dict()[name], rtol=0, atol=3e-7)
    same(judge, discriminator)


def test_tensorflow_stylegan1_is_named(tmp_path):
    old = writers._tf(
        "G_synthesis", [("lod", np.float32(0)), ("ToRGB_lod0/weight", np.zeros((1, 1, 8, 3), np.float32))]
    )
    with writers.other_programs():
        (tmp_path / "old.pkl").write_bytes(pickle.dumps((old, old, old)))
    with pytest.raises(UserError, match="StyleGAN1"):
        load_file(tmp_path / "old.pkl")


@pytest.mark.parametrize("zipped", [True, False])
def test_rosinality_training_and_converted(tmp_path, zipped):
    generator, discriminator = networks(replace(CONFIG, conv_clamp=None), replace(JUDGE, conv_clamp=None, group_size=4))
    named = generator_to_rosinality(generator.state_dict(), CONFIG.sizes)
    average = named.pop("latent_avg")
    judge = discriminator_to_rosinality(discriminator.state_dict(), CONFIG.sizes)
    path = tmp_path / "550000"
    content = writers.training_content(named, judge)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert format_of(path) == "rosinality .pt"
    got, got_judge = load_rosinality(path)
    same(got, generator, but=("mapping.w_avg",))  # not in the file: the mean of samples
    z = torch.randn(2000, 8)
    mean = generator.mapping.map_one(z)
    assert ((got.mapping.w_avg - mean.mean(0)).abs() < 6 * mean.std(0) / 2000**0.5).all()
    same(got_judge, discriminator)
    torch.save({"g_ema": named, "latent_avg": average}, path, _use_new_zipfile_serialization=zipped)
    same(load_file(path)[0], generator)


def test_rosinality_without_noise_maps(tmp_path):
    """As early versions of that code wrote it."""
    generator, _ = networks()
    named = generator_to_rosinality(generator.state_dict(), CONFIG.sizes)
    torch.save({"g_ema": {n: v for n, v in named.items() if not n.startswith("noises.")}}, tmp_path / "a.pt")
    first, second = load_file(tmp_path / "a.pt")[0], load_file(tmp_path / "a.pt")[0]
    ws = torch.randn(1, CONFIG.num_ws, 8)
    assert torch.equal(first.synthesis(ws), second.synthesis(ws))
    torch.testing.assert_close(first.synthesis(ws, noise="none"), replaced_clamp(generator).synthesis(ws, noise="none"))


def replaced_clamp(generator: Generator) -> Generator:
    free = Generator(replace(generator.config, conv_clamp=None)).eval()
    free.load_state_dict(generator.state_dict())
    return free


def test_rosinality_keys_are_those_of_its_code(tmp_path):
    """Names and shapes of a 16 px network, as that code registers them."""
    generator, discriminator = networks(
        GeneratorConfig(16, (7, 6, 5), w_dim=8, z_dim=8, mapping_layers=2), DiscriminatorConfig(16, (7, 6, 5))
    )
    save_rosinality(tmp_path / "a.pt", generator, discriminator)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    modulated = {
        "conv.weight": (1, 0, 0, 3, 3),
        "conv.modulation.weight": (0, 8),
        "conv.modulation.bias": (0,),
        "activate.bias": (0,),
        "noise.weight": (1,),
    }
    shapes = {
        "input.input": (1, 7, 4, 4),
        "noises.noise_0": (1, 1, 4, 4),
        "noises.noise_1": (1, 1, 8, 8),
        "noises.noise_2": (1, 1, 8, 8),
        "noises.noise_3": (1, 1, 16, 16),
        "noises.noise_4": (1, 1, 16, 16),
    }
    for i in (1, 2):
        shapes |= {f"style.{i}.weight": (8, 8), f"style.{i}.bias": (8,)}
    for layer, before, after in (
        ("conv1", 7, 7),
        ("convs.0", 7, 6),
        ("convs.1", 6, 6),
        ("convs.2", 6, 5),
        ("convs.3", 5, 5),
    ):
        shapes |= {f"{layer}.{name}": shape for name, shape in modulated.items()}
        shapes[f"{layer}.conv.weight"] = (1, after, before, 3, 3)
        shapes[f"{layer}.conv.modulation.weight"], shapes[f"{layer}.conv.modulation.bias"] = (before, 8), (before,)
        shapes[f"{layer}.activate.bias"] = (after,)
    for layer, channels in (("to_rgb1", 7), ("to_rgbs.0", 6), ("to_rgbs.1", 5)):
        shapes |= {
            f"{layer}.conv.weight": (1, 3, channels, 1, 1),
            f"{layer}.bias": (1, 3, 1, 1),
            f"{layer}.conv.modulation.weight": (channels, 8),
            f"{layer}.conv.modulation.bias": (channels,),
        }
    for i in (0, 1):
        shapes |= {f"convs.{2 * i}.conv.blur.kernel": (4, 4), f"to_rgbs.{i}.upsample.kernel": (4, 4)}
    assert {name: tuple(value.shape) for name, value in content["g_ema"].items()} == shapes
    assert content["g_ema"]["convs.0.conv.blur.kernel"].sum() == 4
    judge = {
        "convs.0.0.weight": (5, 3, 1, 1),
        "convs.0.1.bias": (5,),
        "final_conv.0.weight": (7, 8, 3, 3),
        "final_conv.1.bias": (7,),
        "final_linear.0.weight": (7, 112),
        "final_linear.0.bias": (7,),
        "final_linear.1.weight": (1, 7),
        "final_linear.1.bias": (1,),
    }
    for i, before, after in ((1, 5, 6), (2, 6, 7)):
        judge |= {
            f"convs.{i}.conv1.0.weight": (before, before, 3, 3),
            f"convs.{i}.conv1.1.bias": (before,),
            f"convs.{i}.conv2.0.kernel": (4, 4),
            f"convs.{i}.conv2.1.weight": (after, before, 3, 3),
            f"convs.{i}.conv2.2.bias": (after,),
            f"convs.{i}.skip.0.kernel": (4, 4),
            f"convs.{i}.skip.1.weight": (after, before, 1, 1),
        }
    assert {name: tuple(value.shape) for name, value in content["d"].items()} == judge
    assert content["d"]["convs.1.conv2.0.kernel"].sum() == 1
    assert torch.equal(content["latent_avg"], generator.mapping.w_avg)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_fixtures_through_rosinality_and_back(tmp_path, name):
    generator, discriminator = load_official(FIXTURES / f"{name}.pkl")
    path = tmp_path / "again.pt"
    if name == "sg2_64":
        save_rosinality(path, generator, discriminator)
    else:
        with pytest.raises(UserError, match="rosinality's code has no"):
            save_rosinality(path, generator)
        assert not path.exists()
        save_rosinality(path, generator, discriminator, extended=True)
    got, judge = load_rosinality(path)
    same(got, generator)
    with np.load(FIXTURES / f"{name}.npz") as file:
        want = {key: torch.from_numpy(file[key]) for key in file}
    images = got.synthesis(want["wplus"])
    assert (images - want["img_wplus"]).abs().max() <= 1e-4 * (want["img_wplus"].max() - want["img_wplus"].min())
    if discriminator is not None:
        same(judge, discriminator)
        torch.testing.assert_close(judge(want["img"]), want["d_logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [None, CONFIG.num_ws])
def test_encoder_checkpoints(tmp_path, rows):
    generator, _ = networks(replace(CONFIG, conv_clamp=None))
    named = generator_to_rosinality(generator.state_dict(), CONFIG.sizes)
    average = named.pop("latent_avg")
    content = writers.encoder_content(named, average if rows is None else average.repeat(rows, 1))
    path = tmp_path / "e4e_ffhq_encode"
    torch.save(content, path)
    assert format_of(path) == "encoder .pt"
    found = load_encoder(path)
    same(found.decoder, generator)
    assert set(found.parts) == {"encoder"}
    for name in ("input_layer.0.weight", "styles.0.linear.weight"):
        assert torch.equal(found.parts["encoder"][name], content["state_dict"][f"encoder.{name}"])
    assert torch.equal(found.latent_avg, content["latent_avg"])
    assert found.options["encoder_type"] == "Encoder4Editing"
    same(load_file(path)[0], generator)


def test_unified_load_goes_by_content(tmp_path):
    generator, discriminator = networks()
    for write in (
        lambda path: save_networks(path, generator, discriminator),
        lambda path: save_rosinality(path, generator, discriminator),
        lambda path: writers.write_official(path, generator, discriminator, version="ada"),
    ):
        path = tmp_path / "model.jpg"
        write(path)
        loaded = unified.load(path)
        same(loaded.generator, generator)
        assert loaded.discriminator(torch.zeros(2, 3, 32, 32)).shape == (2, 1)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_downloads(tmp_path, share):
    generator, discriminator = networks()
    whole = tmp_path / "whole"
    for name, write in {
        "a.pkl": lambda: writers.write_official(whole, generator, version="ada"),
        "b.pt": lambda: save_rosinality(whole, generator),
        "c.pt": lambda: torch.save({"g_ema": generator.state_dict()}, whole, _use_new_zipfile_serialization=False),
        "d.pkl": lambda: writers.write_tensorflow(whole, generator, discriminator),
        "e.safetensors": lambda: save_networks(whole, generator),
    }.items():
        write()
        data = whole.read_bytes()
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UserError, match=r"Download|write it again") as caught:
            unified.load(tmp_path / name)
        assert len(str(caught.value)) < 400


def test_other_files_are_refused_with_one_sentence(tmp_path):
    generator, _ = networks()
    ours = generator_to_rosinality(generator.state_dict(), CONFIG.sizes)
    wrong = {n.replace("to_rgbs.1", "to_rgbs.5"): v for n, v in ours.items()}
    weight = ours["convs.0.conv.weight"]
    for name, content, match in (
        ("a state dict", {"layer1.0.weight": torch.zeros(3)}, "no StyleGAN2"),
        ("a list", [1, 2], "a list"),
        ("a number", 3, "a int"),
        ("StyleGAN1", {"generator.progression.0.conv1.weight": torch.zeros(3)}, "StyleGAN1"),
        ("an encoder alone", {"state_dict": {"encoder.body.0.weight": torch.zeros(3)}}, "without"),
        ("a hole between sizes", {"g_ema": wrong}, "power of two|is missing|needs"),
        ("a wrong shape", {"g_ema": ours | {"convs.0.conv.weight": weight[:, :, :2]}}, "has shape"),
        ("another filter", {"g_ema": ours | {"convs.0.conv.blur.kernel": torch.ones(3, 3)}}, "filter"),
    ):
        path = tmp_path / "a.pt"
        torch.save(content, path)
        with pytest.raises(UserError, match=match) as caught:
            load_file(path)
        assert len(str(caught.value)) < 500, name
    (tmp_path / "page.pkl").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(UserError, match="web page"):
        unified.load(tmp_path / "page.pkl")


def test_a_resolution_that_is_no_power_of_two(tmp_path):
    generator, _ = networks()
    content = writers.snapshot(generator, None, version="ada")["G_ema"]
    modules = content.meta["state"]["_modules"]["synthesis"].meta["state"]["_modules"]
    modules["b48"] = modules.pop("b32")
    with writers.other_programs():
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": content}))
    with pytest.raises(UserError, match=r"resolution 48.*power of two"):
        load_file(tmp_path / "a.pkl")


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    """Every tensor of a large network shows the same small storage: copied, it would be 1000 times the file."""
    with torch.device("meta"):
        large = Generator(GeneratorConfig(128, (256,) * 6)).state_dict()
    block = torch.zeros(max(value.numel() for value in large.values()))
    views = {name: block[: value.numel()].view(value.shape) for name, value in large.items()}
    torch.save({"g_ema": generator_to_rosinality_shared(views)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 4 * block.numel() + 100_000
    with pytest.raises(UnsafeFileError, match="repeat a few values"):
        load_file(tmp_path / "a.pt")


def generator_to_rosinality_shared(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By rosinality's names, with the storage still shared (the writer copies)."""
    from backbones.stylegan.formats.rosinality import _generator_name, _generator_names, _unshaped

    names = {_generator_name(name): name for name in _generator_names((4, 8, 16, 32, 64, 128))}
    return {names[n]: _unshaped(names[n], v) for n, v in views.items() if n in names}
