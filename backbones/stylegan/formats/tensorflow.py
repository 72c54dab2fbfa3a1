"""The .pkl of the TensorFlow code (StyleGAN2, StyleGAN2-ADA): a tuple (G, D, Gs) of Network objects.

Each carries its variables as (name, numpy array) and its parts as `components`. TensorFlow keeps convolution
weights as [height, width, in, out] and dense ones as [in, out]; its upsampling convolutions run over weights
turned by 180 degrees; biases of styles are stored without the 1 that is added to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.assemble import discriminator_from, generator_from, refuse_repetition
from backbones.stylegan.formats.errors import damaged, describing
from backbones.stylegan.formats.restricted import Stub, Walk, plain, read_content
from backbones.stylegan.formats.values import Array
from backbones.stylegan.generator import Generator
from unified.errors import UserError


def _same(x: Tensor) -> Tensor:
    return x


def _dense(x: Tensor) -> Tensor:
    return x.t()


def _conv(x: Tensor) -> Tensor:
    return x.permute(3, 2, 0, 1)


def _turned(x: Tensor) -> Tensor:
    return x.flip(0, 1).permute(3, 2, 0, 1)


def _style_bias(x: Tensor) -> Tensor:
    return x + 1


def _first(x: Tensor) -> Tensor:
    return x.squeeze(0)


def _map(x: Tensor) -> Tensor:
    return x[0, 0]


Rule = tuple[str, Callable[..., str], Callable[[Tensor], Tensor]]


def _noise_name(number: str) -> str:
    index = int(number)
    return "b4.conv1" if index == 0 else f"b{2 ** min((index + 5) // 2, 40)}.conv{(index + 1) % 2}"


def _layer_rules(name: str, target: Callable[[str], str], weight: Callable[[Tensor], Tensor]) -> list[Rule]:
    """Rules of a modulated layer `{size}x{size}/name`; target(size) is the official prefix."""
    start = rf"synthesis/(\d+)x\1/{name}/"
    return [
        (start + "weight", lambda r: f"{target(r)}.weight", weight),
        (start + "bias", lambda r: f"{target(r)}.bias", _same),
        (start + "noise_strength", lambda r: f"{target(r)}.noise_strength", _same),
        (start + "mod_weight", lambda r: f"{target(r)}.affine.weight", _dense),
        (start + "mod_bias", lambda r: f"{target(r)}.affine.bias", _style_bias),
    ]


_GENERATOR: list[Rule] = [
    ("dlatent_avg", lambda: "mapping.w_avg", _same),
    ("mapping/LabelEmbed/weight", lambda: "mapping.embed.weight", _dense),
    ("mapping/LabelEmbed/bias", lambda: "mapping.embed.bias", _same),
    (r"mapping/Dense(\d+)/weight", lambda i: f"mapping.fc{i}.weight", _dense),
    (r"mapping/Dense(\d+)/bias", lambda i: f"mapping.fc{i}.bias", _same),
    ("synthesis/4x4/Const/const", lambda: "synthesis.b4.const", _first),
    (r"synthesis/noise(\d+)", lambda i: f"synthesis.{_noise_name(i)}.noise_const", _map),
    (r"synthesis/(\d+)x\1/Skip/weight", lambda r: f"synthesis.b{r}.skip.weight", _turned),
    *_layer_rules("Conv", lambda r: f"synthesis.b{r}.conv1", _conv),
    *_layer_rules("Conv0_up", lambda r: f"synthesis.b{r}.conv0", _turned),
    *_layer_rules("Conv1", lambda r: f"synthesis.b{r}.conv1", _conv),
    *_layer_rules("ToRGB", lambda r: f"synthesis.b{r}.torgb", _conv),
]

_DISCRIMINATOR: list[Rule] = [
    ("LabelEmbed/weight", lambda: "mapping.embed.weight", _dense),
    ("LabelEmbed/bias", lambda: "mapping.embed.bias", _same),
    (r"Mapping(\d+)/weight", lambda i: f"mapping.fc{i}.weight", _dense),
    (r"Mapping(\d+)/bias", lambda i: f"mapping.fc{i}.bias", _same),
    (r"(\d+)x\1/FromRGB/weight", lambda r: f"b{r}.fromrgb.weight", _conv),
    (r"(\d+)x\1/FromRGB/bias", lambda r: f"b{r}.fromrgb.bias", _same),
    (r"(\d+)x\1/Conv0/weight", lambda r: f"b{r}.conv0.weight", _conv),
    (r"(\d+)x\1/Conv0/bias", lambda r: f"b{r}.conv0.bias", _same),
    (r"(\d+)x\1/Conv1_down/weight", lambda r: f"b{r}.conv1.weight", _conv),
    (r"(\d+)x\1/Conv1_down/bias", lambda r: f"b{r}.conv1.bias", _same),
    (r"(\d+)x\1/Skip/weight", lambda r: f"b{r}.skip.weight", _conv),
    ("4x4/Conv/weight", lambda: "b4.conv.weight", _conv),
    ("4x4/Conv/bias", lambda: "b4.conv.bias", _same),
    ("4x4/Dense0/weight", lambda: "b4.fc.weight", _dense),
    ("4x4/Dense0/bias", lambda: "b4.fc.bias", _same),
    ("Output/weight", lambda: "b4.out.weight", _dense),
    ("Output/bias", lambda: "b4.out.bias", _same),
]


def load_tensorflow(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The averaged generator (Gs) and the discriminator, in fp32, in eval mode.

    Raises UserError for networks of StyleGAN1 or ProGAN, and for the conditional ones of the first StyleGAN2 code.
    """
    content = read_content(path)
    with describing(path):
        return build_tensorflow(content, path)


def networks_of(content: Any) -> dict[str, Stub]:
    """{"G", "D", "Gs"} of the content, or {} if it is something else."""
    stubs = content if isinstance(content, tuple) else ()
    names = {3: ("G", "D", "Gs"), 2: ("G", "D"), 1: ("Gs",)}.get(len(stubs), ())
    if not names or not all(isinstance(stub, Stub) and stub.class_name == "Network" for stub in stubs):
        return {}
    return dict(zip(names, stubs, strict=True))


def build_tensorflow(content: Any, path: str | Path) -> tuple[Generator, Discriminator | None]:
    stubs = networks_of(content if isinstance(content, tuple) else (content,))
    source = stubs.get("Gs") or stubs.get("G")
    if source is None:
        raise UserError(f"{path} holds no tuple (G, D, Gs) of networks, as the TensorFlow StyleGAN2 wrote it.")
    generator = generator_from(generator_tensors(source), **_settings(source, "mapping_lrmul"))
    discriminator = None
    if "D" in stubs:
        group = _setting(stubs["D"], "mbstd_group_size", 4)
        discriminator = discriminator_from(
            discriminator_tensors(stubs["D"]),
            group_size=None if not group or group < 1 else int(group),
            **_settings(stubs["D"], "mapping_lrmul"),
        )
    return generator, discriminator


def generator_tensors(stub: Stub) -> dict[str, Tensor]:
    """The variables of a G as tensors by official torch names."""
    return _renamed(variables(stub), _GENERATOR)


def discriminator_tensors(stub: Stub) -> dict[str, Tensor]:
    return _renamed(variables(stub), _DISCRIMINATOR)


def variables(stub: Stub, *, prefix: str = "", depth: int = 0, walk: Walk | None = None) -> dict[str, Tensor]:
    """All variables by name, those of components below the component's name."""
    walk = walk or Walk()
    walk.step(depth)
    found: dict[str, Tensor] = {}
    own = stub.state.get("variables") or []
    components = stub.state.get("components") or {}
    if not isinstance(own, list | tuple) or not isinstance(components, dict):
        raise damaged("a network's variables are no list")
    for pair in own:
        walk.step(depth)
        if not isinstance(pair, tuple | list) or len(pair) != 2 or type(pair[0]) is not str:
            raise damaged("a network's variable has no name")
        if isinstance(pair[1], Array):
            found[prefix + pair[0]] = pair[1].tensor()
        elif type(pair[1]) in (int, float):  # a scalar, such as noise_strength
            found[prefix + pair[0]] = torch.tensor(float(pair[1]))
    for name, component in components.items():
        if not isinstance(component, Stub) or type(name) is not str:
            raise damaged("a network's component is no network")
        found |= variables(component, prefix=f"{prefix}{name}/", depth=depth + 1, walk=walk)
    return found


def _renamed(tensors: Mapping[str, Tensor], rules: list[Rule]) -> dict[str, Tensor]:
    first_version = [n for n in tensors if "StyleMod" in n or "_lod" in n or "/lod" in n or n.startswith("lod")]
    if any("_lod" in name or "StyleMod" in name for name in first_version):
        raise UserError(
            f"The file holds a StyleGAN1 or a progressive GAN (its variables include {first_version[0][:60]!r}), "
            "whose networks differ; expected StyleGAN2."
        )
    if "mapping/LabelConcat/weight" in tensors:
        raise UserError("The file holds a conditional network of the first StyleGAN2 code, which is not supported.")
    refuse_repetition(tensors.values())
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, target, change in rules:
            match = re.fullmatch(pattern, name)
            if match:
                try:
                    found[target(*match.groups())] = change(tensor)
                except (RuntimeError, IndexError, ValueError):
                    raise damaged(f"its variable {name[:60]!r} has shape {tuple(tensor.shape)}") from None
                break
    return found


def _setting(stub: Stub, name: str, default: Any) -> Any:
    """A number of the network's fixed arguments."""
    arguments = plain(stub.state.get("static_kwargs") or {})
    value = arguments.get(name, default) if isinstance(arguments, dict) else default
    if value is not None and type(value) not in (int, float):
        raise damaged(f"the setting {name} of a network is no number")
    return value


def _settings(stub: Stub, multiplier: str) -> dict[str, Any]:
    clamp = _setting(stub, "conv_clamp", None)
    return {
        "conv_clamp": None if clamp is None else float(clamp),
        "learning_rate_multiplier": float(_setting(stub, multiplier, 0.01) or 0.01),
    }
