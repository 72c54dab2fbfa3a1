"""Checkpoint files as other programs write them, made from our networks, without those programs.

Pickles name functions and classes by module; the modules are put in place only while a file is written.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backbones.stylegan import Discriminator, Generator


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only its name is needed")


class EasyDict(dict):
    """dnnlib.util.EasyDict"""


class Network:
    """dnnlib.tflib.network.Network: an object with its state in __dict__."""

    def __init__(self, **state):
        self.__dict__.update(state)


_PLACES = {
    "torch_utils.persistence": _reconstruct_persistent_obj,
    "dnnlib.util": EasyDict,
    "dnnlib.tflib.network": Network,
}


@contextlib.contextmanager
def other_programs() -> Iterator[None]:
    """The modules that the names in checkpoints refer to, for pickle's look at them while writing."""
    modules, before = {}, {}
    for path, thing in _PLACES.items():
        parts = path.split(".")
        for i in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        before[path] = (thing, thing.__module__)
        thing.__module__ = path
        setattr(modules[path], thing.__name__, thing)
    assert not any(name in sys.modules for name in modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for thing, module in before.values():
            thing.__module__ = module


class Persistent:
    """A network object as torch_utils.persistence pickles it: its source text and its __dict__."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = EasyDict(type="class", version=6, module_src="raise SystemExit", class_name=class_name, state=state)

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


def persistent(module: nn.Module, *, version: str, **arguments: Any) -> Persistent:
    """A module of ours as a module of the official code.

    version: "ada" (stylegan2-ada-pytorch), "stylegan3" (that repository) or "bare" (no attributes of layers).
    """
    ordered = dict if version == "stylegan3" else collections.OrderedDict
    state: dict[str, Any] = {
        "training": False,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": collections.OrderedDict(),
    }
    state["_parameters"] = ordered((n, p) for n, p in module._parameters.items() if p is not None)
    state["_buffers"] = ordered((n, b) for n, b in module._buffers.items() if b is not None)
    children = [(n, persistent(m, version=version)) for n, m in module._modules.items() if m is not None]
    if hasattr(module, "group_size"):
        mbstd = {"group_size": module.group_size, "num_channels": module.group_channels, "_modules": {}}
        children.append(("mbstd", Persistent("MinibatchStdLayer", mbstd if version != "bare" else {"_modules": {}})))
    state["_modules"] = ordered(children)
    if version != "bare":
        for name, given in (("conv_clamp", "conv_clamp"), ("multiplier", "bias_gain")):
            if hasattr(module, name):
                state[given] = getattr(module, name)
        if hasattr(module, "conv_clamp"):
            state |= {"activation": "lrelu", "act_gain": np.sqrt(2.0)}
    state |= {"_init_args": (), "_init_kwargs": EasyDict(arguments)}
    return Persistent(type(module).__name__, state)


def snapshot(generator: Generator, discriminator: Discriminator | None, *, version: str) -> dict[str, Any]:
    """What the official training writes. The generator "G" is another one than the averaged "G_ema"."""
    clamp, group = generator.config.conv_clamp, 4 if discriminator is None else discriminator.config.group_size
    mapping = EasyDict(
        num_layers=generator.config.mapping_layers, lr_multiplier=generator.config.learning_rate_multiplier
    )
    if version == "stylegan3":
        given = {"mapping_kwargs": mapping, "channel_base": 16384}
    else:
        given = {"mapping_kwargs": mapping, "synthesis_kwargs": EasyDict(conv_clamp=clamp, num_fp16_res=4)}
    ours = persistent(generator, version=version, **given)
    torch.manual_seed(5)
    other = persistent(Generator(generator.config), version=version, **given)
    content = {
        "training_set_kwargs": EasyDict(path="x.zip", resolution=32),
        "G": other,
        "G_ema": ours,
        "augment_pipe": None,
    }
    if discriminator is not None:
        end = {"epilogue_kwargs": EasyDict(mbstd_group_size=group), "mapping_kwargs": mapping, "conv_clamp": clamp}
        content["D"] = persistent(discriminator, version=version, **end)
    return content


def write_official(
    path: Path, generator: Generator, discriminator: Discriminator | None = None, *, version: str, protocol: int = 4
) -> None:
    with other_programs():
        path.write_bytes(pickle.dumps(snapshot(generator, discriminator, version=version), protocol))


def write_pti(path: Path, generator: Generator) -> None:
    """The whole generator by torch.save."""
    with other_programs():
        torch.save(persistent(generator, version="ada", synthesis_kwargs=EasyDict(conv_clamp=256)), path)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _hwio(tensor: torch.Tensor, *, turned: bool = False) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out], spatially turned by 180 degrees if asked."""
    x = np.transpose(_array(tensor), (2, 3, 1, 0))
    return np.ascontiguousarray(x[::-1, ::-1] if turned else x)


def tensorflow_generator(generator: Generator) -> Network:
    t = generator.state_dict()
    synthesis: list[tuple[str, Any]] = [("4x4/Const/const", _array(t["synthesis.b4.const"])[None])]
    noises = 0
    for size in generator.config.sizes:
        for ours, theirs in (("conv0", "Conv0_up"), ("conv1", "Conv" if size == 4 else "Conv1"), ("torgb", "ToRGB")):
            p, q = f"synthesis.b{size}.{ours}", f"{size}x{size}/{theirs}"
            if f"{p}.weight" not in t:
                continue
            synthesis += [
                (f"{q}/weight", _hwio(t[f"{p}.weight"], turned=ours == "conv0")),
                (f"{q}/bias", _array(t[f"{p}.bias"])),
                (f"{q}/mod_weight", np.ascontiguousarray(_array(t[f"{p}.affine.weight"]).T)),
                (f"{q}/mod_bias", _array(t[f"{p}.affine.bias"]) - np.float32(1)),
            ]
            if ours != "torgb":
                synthesis.append((f"{q}/noise_strength", np.float32(t[f"{p}.noise_strength"].item())))
                synthesis.append((f"noise{noises}", _array(t[f"{p}.noise_const"])[None, None]))
                noises += 1
        if f"synthesis.b{size}.skip.weight" in t:
            synthesis.append((f"{size}x{size}/Skip/weight", _hwio(t[f"synthesis.b{size}.skip.weight"], turned=True)))
    mapping: list[tuple[str, Any]] = []
    for i in range(generator.config.mapping_layers):
        mapping.append((f"Dense{i}/weight", np.ascontiguousarray(_array(t[f"mapping.fc{i}.weight"]).T)))
        mapping.append((f"Dense{i}/bias", _array(t[f"mapping.fc{i}.bias"])))
    if "mapping.embed.weight" in t:
        mapping.append(("LabelEmbed/weight", np.ascontiguousarray(_array(t["mapping.embed.weight"]).T)))
        mapping.append(("LabelEmbed/bias", _array(t["mapping.embed.bias"])))
    components = EasyDict(synthesis=_tf("G_synthesis", synthesis), mapping=_tf("G_mapping", mapping))
    own = [("lod", np.float32(0)), ("dlatent_avg", _array(t["mapping.w_avg"]))]
    return _tf("G_main", own, components, conv_clamp=generator.config.conv_clamp)


def tensorflow_discriminator(discriminator: Discriminator) -> Network:
    t = discriminator.state_dict()
    found: list[tuple[str, Any]] = []
    for size in discriminator.config.sizes:
        if size == 4 and "b4.fromrgb.weight" not in t:
            continue
        for ours, theirs in (("fromrgb", "FromRGB"), ("conv0", "Conv0"), ("conv1", "Conv1_down"), ("skip", "Skip")):
            if f"b{size}.{ours}.weight" in t:
                found.append((f"{size}x{size}/{theirs}/weight", _hwio(t[f"b{size}.{ours}.weight"])))
            if f"b{size}.{ours}.bias" in t:
                found.append((f"{size}x{size}/{theirs}/bias", _array(t[f"b{size}.{ours}.bias"])))
    found.append(("4x4/Conv/weight", _hwio(t["b4.conv.weight"])))
    found.append(("4x4/Conv/bias", _array(t["b4.conv.bias"])))
    for ours, theirs in (("fc", "4x4/Dense0"), ("out", "Output")):
        found.append((f"{theirs}/weight", np.ascontiguousarray(_array(t[f"b4.{ours}.weight"]).T)))
        found.append((f"{theirs}/bias", _array(t[f"b4.{ours}.bias"])))
    return _tf("D", found, conv_clamp=discriminator.config.conv_clamp, mbstd_group_size=discriminator.config.group_size)


def _tf(name: str, variables: list[tuple[str, Any]], components: Any = None, **arguments: Any) -> Network:
    return Network(
        version=5,
        name=name,
        static_kwargs=EasyDict(arguments),
        components=components or EasyDict(),
        build_module_src="raise SystemExit",
        build_func_name=name,
        variables=variables,
    )


def write_tensorflow(path: Path, generator: Generator, discriminator: Discriminator, *, protocol: int = 4) -> None:
    average = tensorflow_generator(generator)
    torch.manual_seed(5)
    other = tensorflow_generator(Generator(generator.config))
    with other_programs():
        path.write_bytes(pickle.dumps((other, tensorflow_discriminator(discriminator), average), protocol))


def training_content(generator: dict[str, torch.Tensor], discriminator: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What rosinality's training writes, optimisers and arguments included. "g" is not the averaged generator."""
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=0.002, betas=(0.0, 0.99))
    sum(layer(torch.ones(3)).sum() for layer in layers).backward()
    optimiser.step()
    return {
        "g": {name: torch.zeros_like(value) for name, value in generator.items()},
        "d": discriminator,
        "g_ema": collections.OrderedDict(generator),
        "g_optim": optimiser.state_dict(),
        "d_optim": optimiser.state_dict(),
        "args": argparse.Namespace(path="lmdb", iter=800000, size=64, lr=0.002, augment=False),
        "ada_aug_p": 0.0,
    }


def encoder_content(generator: dict[str, torch.Tensor], average: torch.Tensor) -> dict[str, Any]:
    """What pSp and e4e write: an encoder (its first and last layers here) beside the decoder."""
    state = collections.OrderedDict((f"decoder.{name}", value) for name, value in generator.items())
    state["encoder.input_layer.0.weight"] = torch.randn(64, 3, 3, 3)
    state["encoder.styles.0.linear.weight"] = torch.randn(8, 8)
    return {
        "state_dict": state,
        "latent_avg": average,
        "opts": {"encoder_type": "Encoder4Editing", "output_size": 64, "learning_rate": 1e-4, "device": "cuda:0"},
    }
