"""Networks of pSp, e4e and ReStyle: published names and shapes, the computation, and files that hold them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import unified
from backbones.stylegan.encoders.config import StyleEncoderConfig, infer_config
from backbones.stylegan.encoders.network import LatentDiscriminator, StyleEncoder
from backbones.stylegan.encoders.stored import load_inverter, save_inverter
from backbones.stylegan.formats.encoder_networks import load_inverter_file
from tests.tiny.encoders import CLASSES, SMALL, config_of, published, style_inverter
from tests.tiny.families import pictures
from tests.tiny.gan import stylegan
from unified.errors import UserError
from unified.picture_encoders import encoder_of

NAMES = list(CLASSES)
COUNTER = "num_batches_tracked"


def shapes(config: StyleEncoderConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = StyleEncoder(config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items() if COUNTER not in name}


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def ir_se50(inputs: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published trunk: 3 + 4 + 14 + 3 units."""
    found: dict[str, tuple[int, ...]] = {"input_layer.0.weight": (64, inputs, 3, 3), "input_layer.2.weight": (64,)}
    found |= norm("input_layer.1", 64)
    width, number = 64, 0
    for channels, units in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for _ in range(units):
            unit = f"body.{number}"
            if width != channels:
                found[f"{unit}.shortcut_layer.0.weight"] = (channels, width, 1, 1)
                found |= norm(f"{unit}.shortcut_layer.1", channels)
            found |= norm(f"{unit}.res_layer.0", width)
            found[f"{unit}.res_layer.1.weight"] = (channels, width, 3, 3)
            found[f"{unit}.res_layer.2.weight"] = (channels,)
            found[f"{unit}.res_layer.3.weight"] = (channels, channels, 3, 3)
            found |= norm(f"{unit}.res_layer.4", channels)
            found[f"{unit}.res_layer.5.fc1.weight"] = (channels // 16, channels, 1, 1)
            found[f"{unit}.res_layer.5.fc2.weight"] = (channels, channels // 16, 1, 1)
            width, number = channels, number + 1
    return found


def styles(halvings: list[int]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for i, count in enumerate(halvings):
        for k in range(count):
            found[f"styles.{i}.convs.{2 * k}.weight"] = (512, 512, 3, 3)
            found[f"styles.{i}.convs.{2 * k}.bias"] = (512,)
        found[f"styles.{i}.linear.weight"] = (512, 512)
        found[f"styles.{i}.linear.bias"] = (512,)
    return found


def test_names_and_shapes_are_those_of_the_published_psp_and_e4e() -> None:
    pyramid = {"latlayer1.weight": (512, 256, 1, 1), "latlayer1.bias": (512,)}
    pyramid |= {"latlayer2.weight": (512, 128, 1, 1), "latlayer2.bias": (512,)}
    expected = ir_se50(3) | styles([4] * 3 + [5] * 4 + [6] * 11) | pyramid
    assert shapes(StyleEncoderConfig()) == expected
    assert shapes(StyleEncoderConfig(progressive=True)) == expected


def test_names_and_shapes_are_those_of_the_published_restyle() -> None:
    restyle = StyleEncoderConfig(inputs=6, pyramid=False)
    assert shapes(restyle) == ir_se50(6) | styles([4] * 18)
    found = shapes(replace(restyle, trunk="resnet", stages=((64, 3), (128, 4), (256, 6), (512, 3)), num_ws=16))
    assert found["conv1.weight"] == (64, 6, 7, 7) and found["relu.weight"] == (64,)
    assert {name for name in found if name.startswith("body.3.")} == {
        *(f"body.3.conv{i}.weight" for i in (1, 2)),
        *(name for i in (1, 2) for name in norm(f"body.3.bn{i}", 1)),
        *("body.3.downsample.0.weight", *norm("body.3.downsample.1", 1)),
    }
    assert found["body.15.conv2.weight"] == (512, 512, 3, 3) and "body.16.conv1.weight" not in found


@pytest.mark.parametrize(
    "config",
    [
        StyleEncoderConfig(),
        StyleEncoderConfig(inputs=6, trunk="resnet", stages=((64, 3), (128, 4), (256, 6), (512, 3)), pyramid=False),
        SMALL,
        replace(SMALL, progressive=True, resolution=64),
        replace(SMALL, inputs=6, pyramid=False),
    ],
)
def test_settings_are_read_off_the_tensors(config: StyleEncoderConfig) -> None:
    with torch.device("meta"):
        tensors = StyleEncoder(config).state_dict()
    assert infer_config(tensors, progressive=config.progressive) == config


# --- the computation ------------------------------------------------------------------------------------------


def by_hand(t: dict[str, Tensor], x: Tensor, config: StyleEncoderConfig) -> Tensor:
    """The network in plain functions, written from the papers."""

    def bn(name: str, x: Tensor) -> Tensor:
        scale = t[f"{name}.weight"] / (t[f"{name}.running_var"] + 1e-5).sqrt()
        return (x - t[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + t[f"{name}.bias"][:, None, None]

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = t[f"{name}.weight"]
        return functional.conv2d(x, weight, t.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    x = functional.prelu(bn("input_layer.1", conv("input_layer.0", x)), t["input_layer.2.weight"])
    levels, number = [], 0
    for _, units in config.stages:
        for i in range(units):
            unit, stride = f"body.{number}", 2 if i == 0 else 1
            if f"{unit}.shortcut_layer.0.weight" in t:
                short = bn(f"{unit}.shortcut_layer.1", conv(f"{unit}.shortcut_layer.0", x, stride))
            else:
                short = functional.max_pool2d(x, 1, stride)
            y = conv(f"{unit}.res_layer.1", bn(f"{unit}.res_layer.0", x))
            y = conv(f"{unit}.res_layer.3", functional.prelu(y, t[f"{unit}.res_layer.2.weight"]), stride)
            y = bn(f"{unit}.res_layer.4", y)
            gate = functional.adaptive_avg_pool2d(y, 1)
            gate = conv(f"{unit}.res_layer.5.fc2", functional.relu(conv(f"{unit}.res_layer.5.fc1", gate))).sigmoid()
            x, number = short + y * gate, number + 1
        levels.append(x)
    levels = levels[:0:-1]  # coarse, middle, fine
    if config.pyramid:
        for i in (1, 2):
            side = conv(f"latlayer{i}", levels[i])
            above = functional.interpolate(levels[i - 1], side.shape[-2:], mode="bilinear", align_corners=True)
            levels[i] = above + side
    found = []
    for i in range(config.num_ws):
        y = levels[(0 if i < 3 else 1 if i < 7 else 2) if config.pyramid else 0]
        k = 0
        while f"styles.{i}.convs.{k}.weight" in t:
            y, k = functional.leaky_relu(conv(f"styles.{i}.convs.{k}", y, 2), 0.01), k + 2
        assert y.shape[-2:] == (1, 1)
        weight = t[f"styles.{i}.linear.weight"]
        w = y.flatten(1) @ weight.T / math.sqrt(weight.shape[1]) + t[f"styles.{i}.linear.bias"]
        found.append(w + found[0] if config.progressive and i else w)
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_computes_what_the_papers_say(name: str) -> None:
    encoder = style_inverter(name).encoder.double()
    x = torch.randn(2, encoder.config.inputs, 32, 32, dtype=torch.float64)
    assert torch.allclose(encoder(x), by_hand(encoder.state_dict(), x, encoder.config), atol=1e-10)


def test_offsets_are_added_one_after_the_other() -> None:
    encoder = style_inverter("e4e").encoder
    x = torch.randn(2, 3, 32, 32)
    whole = encoder(x)
    encoder.unlocked = 4
    part = encoder(x)
    assert torch.equal(part[:, :5], whole[:, :5])
    assert torch.equal(part[:, 5:], whole[:, :1].expand(-1, 3, -1))
    encoder.unlocked = 0
    assert torch.equal(encoder(x), whole[:, :1].expand(-1, 8, -1))


def test_the_discriminator_has_four_layers() -> None:
    names = {name: tuple(value.shape) for name, value in LatentDiscriminator(512).state_dict().items()}
    assert {name for name in names if name.endswith("weight")} == {f"mlp.{i}.weight" for i in (0, 2, 4, 6)}
    assert names["mlp.6.weight"] == (1, 512)


# --- inversion --------------------------------------------------------------------------------------------------


def test_one_pass_gives_the_mean_and_what_the_encoder_says(tmp_path: Path) -> None:
    for name in ("psp", "e4e"):
        inverter = style_inverter(name)
        gan = unified.load(published(tmp_path / f"{name}.pt", name, inverter))
        reference = pictures(gan, 2)
        code = gan.invert(reference.images, recipe=name).codes[0]
        expected = inverter.latent_avg + inverter.encoder(reference.images * 2 - 1)
        assert code.space == "w+" and torch.allclose(code.tensors["w"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["restyle-psp", "restyle-e4e"])
def test_restyle_sees_what_its_answer_looks_like(name: str, tmp_path: Path) -> None:
    """Equations 3 and 4, three times as the file's options say."""
    inverter = style_inverter(name)
    gan = unified.load(published(tmp_path / "a.pt", name, inverter))
    reference = pictures(gan, 2)
    w = inverter.latent_avg.expand(2, -1, -1)
    for _ in range(3):
        w = w + inverter.encoder(torch.cat([reference.images * 2 - 1, gan.synthesis(w)], 1))
    found = gan.invert(reference.images, recipe=name).codes[0].tensors["w"]
    assert torch.allclose(found, w, atol=1e-4)


def test_pictures_are_scaled_to_what_the_encoder_takes() -> None:
    inverter = style_inverter("restyle-psp", resolution=64)
    gan = stylegan()
    with gan.bound() as view:
        codes = inverter.codes(view, pictures(gan, 2).images)
    assert codes["w+"]["w"].shape == (2, 8, 16)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_published_files_are_told_apart_and_read_bit_for_bit(name: str, tmp_path: Path) -> None:
    inverter = style_inverter(name)
    found, read = load_inverter_file(published(tmp_path / "a.pt", name, inverter))
    assert found == name and read.settings() == inverter.settings()
    for key, value in inverter.state_dict().items():
        assert COUNTER in key or torch.equal(read.state_dict()[key], value)


def test_a_mean_w_in_one_row_is_that_of_all_styles(tmp_path: Path) -> None:
    path = published(tmp_path / "a.pt", "psp", style_inverter("psp"))
    content = torch.load(path, weights_only=True)
    content["latent_avg"] = content["latent_avg"][0]
    torch.save(content, path)
    _, read = load_inverter_file(path)
    assert torch.equal(read.latent_avg, content["latent_avg"].expand(8, -1))


def test_our_own_files_come_back(tmp_path: Path) -> None:
    inverter = style_inverter("restyle-e4e")
    inverter.generator = "abc"
    save_inverter(tmp_path, inverter, name="restyle-e4e", card="# card\n")
    name, read = load_inverter(tmp_path)
    assert name == "restyle-e4e" and read.generator == "abc" and read.settings() == inverter.settings()
    for key, value in inverter.state_dict().items():
        assert torch.allclose(read.state_dict()[key].float(), value.float(), rtol=1e-3, atol=1e-6)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.3 * sum(
        v.numel() for v in inverter.state_dict().values()
    ) + 40_000
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="can be read"):
        load_inverter(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"encoder_type": "BackboneEncoderUsingLastLayerIntoWPlus"}, "of the class BackboneEncoderUsing"),
        ({"encoder_type": None}, "known are"),
        ({"start_from_latent_avg": False}, "start from the mean"),
    ],
)
def test_other_encoders_are_refused(options: dict[str, object], match: str, tmp_path: Path) -> None:
    path = published(tmp_path / "a.pt", "psp", style_inverter("psp"), **options)
    with pytest.raises(UserError, match=match):
        load_inverter_file(path)
    assert unified.load(path).resolution == 32  # its generator can be used all the same


def test_damaged_encoders_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    path = published(tmp_path / "a.pt", "psp", style_inverter("psp"))
    for change, match in (
        ({"encoder.styles.3.linear.weight": torch.zeros(16, 5)}, "another shape"),
        ({"encoder.styles.8.linear.weight": torch.zeros(1).expand(2**14, 2**14)}, "past the end|repeat|lacks"),
        ({"encoder.extra.weight": torch.zeros(1)}, "has besides"),
        ({"encoder.input_layer.0.weight": torch.zeros(4, 1, 3, 3)}, "sketches"),
    ):
        content = torch.load(path, weights_only=True)
        content["state_dict"] |= change
        torch.save(content, tmp_path / "b.pt")
        with pytest.raises(UserError, match=match):
            load_inverter_file(tmp_path / "b.pt")


def test_an_encoder_must_fit_its_generator(tmp_path: Path) -> None:
    gan = stylegan()
    file = str(published(tmp_path / "a.pt", "psp", style_inverter("psp")))
    assert encoder_of(gan, "psp", file).kind == "style"
    with pytest.raises(UserError, match="holds the encoder 'psp', not 'e4e'"):
        encoder_of(gan, "e4e", file)
    with pytest.raises(UserError, match="8 of 16"):
        encoder_of(gan, "psp", str(published(tmp_path / "b.pt", "psp", style_inverter("psp", num_ws=10))))
    trained = style_inverter("e4e")
    trained.generator = gan.fingerprint
    save_inverter(tmp_path / "e4e", trained, name="e4e", card="")
    assert encoder_of(gan, "e4e", str(tmp_path / "e4e")).generator == gan.fingerprint
    with pytest.raises(UserError, match="unified zoo build avatars/encoder-e4e"):
        encoder_of(stylegan(seed=1), "e4e", str(tmp_path / "e4e"))
    with pytest.raises(UserError, match=r"comes with no encoder 'psp'.*zoo build avatars/encoder-psp"):
        gan.invert(pictures(gan, 1).images, recipe="psp")


@pytest.mark.parametrize("changes", [{"stages": ((4, 1),)}, {"resolution": 48}, {"trunk": "resnet"}])
def test_impossible_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        config_of("psp", **changes)
    with pytest.raises(UserError, match="does not know"):
        StyleEncoderConfig.from_dict({"colour": 1})
