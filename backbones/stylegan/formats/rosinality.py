"""Checkpoints of rosinality/stylegan2-pytorch, and networks within others that use its names.

Training writes {"g", "d", "g_ema", "g_optim", "d_optim", "args", "ada_aug_p"}, its converter {"g_ema", "latent_avg"}.

Weights are the same numbers under other names and with axes of length 1: both codes store the equalised weights
without their gain. There the gain 1 / sqrt(fan in) is applied to demodulated convolutions too, where it cancels;
the two differ only through the epsilon of the demodulation (relative 1e-8 at usual sizes). Blur kernels are buffers
there, with sum 4 where they double the size; they are rebuilt in both directions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.assemble import discriminator_from, generator_from
from backbones.stylegan.formats.errors import damaged, describing
from backbones.stylegan.formats.restricted import plain, read_content, tensors_of
from backbones.stylegan.generator import Generator
from backbones.stylegan.ops import make_filter
from unified.errors import UserError
from unified.files import explain

OWN = "unified"
"""Our entry in the files we write: settings that these files have no place for."""

_MEAN_SAMPLES = 4096
_LAYER = {"conv.weight": "weight", "conv.modulation.weight": "affine.weight", "conv.modulation.bias": "affine.bias"}
_MODULATED = _LAYER | {"activate.bias": "bias", "noise.weight": "noise_strength"}
_RGB = _LAYER | {"bias": "bias"}


def load_rosinality(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The averaged generator (g_ema, or g) and the discriminator if there is one, in fp32, in eval mode.

    Without latent_avg in the file, the mean of W is that of 4096 fixed samples. Raises UserError.
    """
    content = read_content(path)
    with describing(path):
        return build_rosinality(content, path)


def build_rosinality(content: Any, path: str | Path) -> tuple[Generator, Discriminator | None]:
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dict with g_ema.")
    source = tensors_of(content.get("g_ema")) or tensors_of(content.get("g")) or tensors_of(content)
    own = content.get(OWN)
    own = own if isinstance(own, dict) else {}
    generator = generator_of(source, content.get("latent_avg"), own.get("generator"))
    stored = tensors_of(content.get("d"))
    discriminator = discriminator_of(stored, own.get("discriminator")) if stored else None
    return generator, discriminator


def generator_of(tensors: Mapping[str, Tensor], latent_avg: Any = None, own: Any = None) -> Generator:
    """A generator of tensors by rosinality's names. latent_avg: [w_dim] or [num_ws, w_dim] (its rows' mean)."""
    named = generator_to_official(tensors)
    if not named:
        raise UserError(
            f"The file holds no StyleGAN2: its tensors are called {', '.join(sorted(tensors)[:3]) or 'nothing'}; "
            "expected names such as style.1.weight and convs.0.conv.weight."
        )
    settings, rest = _own(own)
    named |= rest
    average = _average(latent_avg)
    if average is not None:
        named["mapping.w_avg"] = average
    elif "mapping.fc0.weight" in named:
        named["mapping.w_avg"] = torch.zeros(_last_width(named))
    _add_noise(named)
    generator = generator_from(named, **settings)
    if average is None:
        _set_average(generator)
    return generator


def discriminator_of(tensors: Mapping[str, Tensor], own: Any = None) -> Discriminator:
    """A discriminator of tensors by rosinality's names."""
    settings, rest = _own(own)
    return discriminator_from(discriminator_to_official(tensors) | rest, **{"group_size": 4, **settings})


def save_rosinality(
    path: str | Path,
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    extended: bool = False,
) -> None:
    """Write a .pt that rosinality's code and all that build on it read: g, g_ema, latent_avg and d.

    Every weight is kept bit for bit. Settings without a place there (conv_clamp, which that code lacks and which
    matters only in half precision) go into an entry of our own.

    Raises UserError for networks that code cannot build: conditional ones, and architectures other than a skip
    generator and a resnet discriminator. With extended=True these are written too, the tensors without a name there
    in our entry; then only :func:`load_rosinality` reads the file.
    """
    if not isinstance(generator.config, GeneratorConfig):
        raise UserError("rosinality's code has no StyleGAN3; write safetensors.")
    if not extended:
        _require_representable(generator, discriminator)
    names = generator_to_rosinality(generator.state_dict(), generator.config.sizes)
    stored = {name: value for name, value in names.items() if name != "latent_avg"}
    own = {"generator": _describe(generator, generator_to_official(stored))}
    content: dict[str, Any] = {"g": stored, "g_ema": stored, "latent_avg": names["latent_avg"]}
    if discriminator is not None:
        content["d"] = discriminator_to_rosinality(discriminator.state_dict(), discriminator.config.sizes)
        own["discriminator"] = _describe(discriminator, discriminator_to_official(content["d"]))
    content[OWN] = own
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(explain(error, path)) from error
        raise UserError(f"{path} could not be written: {str(error)[:200]}") from error


# --- names ------------------------------------------------------------------------------------------------


def generator_to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by official names; those without one (kernels) are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = _generator_name(name)
        if target is not None:
            found[target] = _shaped(name, target, tensor)
    kernel = next((t for name, t in tensors.items() if name.endswith((".blur.kernel", ".upsample.kernel"))), None)
    _check_kernel(kernel)
    return found


def discriminator_to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    blocks = sorted({int(m[1]) for name in tensors if (m := re.fullmatch(r"convs\.(\d{1,2})\.conv1\.0\.weight", name))})
    top = len(blocks) + 2
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = _discriminator_name(name, top)
        if target is not None:
            found[target] = _shaped(name, target, tensor)
    kernel = next((t for name, t in tensors.items() if name.endswith(".kernel")), None)
    _check_kernel(kernel)
    return found


def generator_to_rosinality(tensors: Mapping[str, Tensor], sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors by rosinality's names, with its kernels; "latent_avg" is among them."""
    found: dict[str, Tensor] = {}
    pairs = {official: name for name in _generator_names(sizes) if (official := _generator_name(name))}
    for official, name in pairs.items():
        if official in tensors:
            found[name] = _unshaped(name, tensors[official].detach().cpu().clone())
    kernel = tensors["synthesis.b4.conv1.resample_filter"].detach().cpu() * 4
    for k in range(len(sizes) - 1):
        found[f"convs.{2 * k}.conv.blur.kernel"] = kernel.clone()
        if f"to_rgbs.{k}.bias" in found:
            found[f"to_rgbs.{k}.upsample.kernel"] = kernel.clone()
    found["latent_avg"] = tensors["mapping.w_avg"].detach().cpu().clone()
    return found


def discriminator_to_rosinality(tensors: Mapping[str, Tensor], sizes: tuple[int, ...]) -> dict[str, Tensor]:
    top = len(sizes) + 1
    found: dict[str, Tensor] = {}
    for name in _discriminator_names(sizes):
        official = _discriminator_name(name, top)
        if official is not None and official in tensors:
            found[name] = _unshaped(name, tensors[official].detach().cpu().clone())
    kernel = tensors[f"b{sizes[-1]}.conv1.resample_filter"].detach().cpu()
    for i in range(1, len(sizes)):
        found[f"convs.{i}.conv2.0.kernel"] = kernel.clone()
        if f"convs.{i}.skip.1.weight" in found:
            found[f"convs.{i}.skip.0.kernel"] = kernel.clone()
    return found


def _generator_name(name: str) -> str | None:
    """The official name of a tensor of the generator."""
    if name == "input.input":
        return "synthesis.b4.const"
    if match := re.fullmatch(r"style\.(\d{1,3})\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d{1,2})", name):
        index = int(match[1])
        layer = "b4.conv1" if index == 0 else f"b{2 ** ((index + 5) // 2)}.conv{(index + 1) % 2}"
        return f"synthesis.{layer}.noise_const"
    if match := re.fullmatch(r"(conv1|to_rgb1|convs\.\d{1,2}|to_rgbs\.\d{1,2})\.(.+)", name):
        layer, part = match[1], match[2]
        part = (_RGB if layer.startswith("to_rgb") else _MODULATED).get(part, "")
        kind, _, number = layer.partition(".")
        index = int(number or -1)
        where = {
            "conv1": "b4.conv1",
            "to_rgb1": "b4.torgb",
            "convs": f"b{2 ** (index // 2 + 3)}.conv{index % 2}",
            "to_rgbs": f"b{2 ** (index + 3)}.torgb",
        }[kind]
        return f"synthesis.{where}.{part}" if part else None
    return None


def _generator_names(sizes: tuple[int, ...]) -> list[str]:
    blocks = len(sizes) - 1
    names = ["input.input", "noises.noise_0"]
    names += [f"style.{i}.{part}" for i in range(1, 100) for part in ("weight", "bias")]
    names += [
        f"{layer}.{part}" for layer in ("conv1", *(f"convs.{i}" for i in range(2 * blocks))) for part in _MODULATED
    ]
    names += [f"{layer}.{part}" for layer in ("to_rgb1", *(f"to_rgbs.{i}" for i in range(blocks))) for part in _RGB]
    return names + [f"noises.noise_{i}" for i in range(1, 2 * blocks + 1)]


def _discriminator_name(name: str, top: int) -> str | None:
    """The official name of a tensor of the discriminator, whose largest size is 2^top."""
    whole = {
        "final_conv.0.weight": "b4.conv.weight",
        "final_conv.1.bias": "b4.conv.bias",
        "final_linear.0.weight": "b4.fc.weight",
        "final_linear.0.bias": "b4.fc.bias",
        "final_linear.1.weight": "b4.out.weight",
        "final_linear.1.bias": "b4.out.bias",
        "convs.0.0.weight": f"b{2**top}.fromrgb.weight",
        "convs.0.1.bias": f"b{2**top}.fromrgb.bias",
    }
    if name in whole:
        return whole[name]
    parts = {
        "conv1.0.weight": "conv0.weight",
        "conv1.1.bias": "conv0.bias",
        "conv2.1.weight": "conv1.weight",
        "conv2.2.bias": "conv1.bias",
        "skip.1.weight": "skip.weight",
    }
    match = re.fullmatch(r"convs\.(\d{1,2})\.(.+)", name)
    if match and match[2] in parts and 1 <= int(match[1]) <= top - 2:
        return f"b{2 ** (top + 1 - int(match[1]))}.{parts[match[2]]}"
    return None


def _discriminator_names(sizes: tuple[int, ...]) -> list[str]:
    ends = ("conv1.0.weight", "conv1.1.bias", "conv2.1.weight", "conv2.2.bias", "skip.1.weight")
    names = [f"convs.{i}.{end}" for i in range(1, len(sizes)) for end in ends]
    names += ["convs.0.0.weight", "convs.0.1.bias", "final_conv.0.weight", "final_conv.1.bias"]
    return names + [f"final_linear.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]


# --- shapes and settings ----------------------------------------------------------------------------------


def _shaped(name: str, target: str, tensor: Tensor) -> Tensor:
    """Without the axes of length 1 that rosinality's tensors have."""
    try:
        if name.startswith("noises."):
            return tensor.reshape(tensor.shape[-2:])
        if name == "input.input" or name.endswith("conv.weight"):
            return tensor.squeeze(0)
        if target.endswith("noise_strength"):
            return tensor.reshape(())
        return tensor.reshape(-1) if target.endswith("bias") else tensor
    except (RuntimeError, IndexError):
        raise damaged(f"its tensor {name[:60]!r} has shape {tuple(tensor.shape)}") from None


def _unshaped(name: str, tensor: Tensor) -> Tensor:
    """The inverse of :func:`_shaped`."""
    if name.startswith("noises."):
        return tensor[None, None]
    if name == "input.input" or name.endswith("conv.weight"):
        return tensor[None]
    if name.endswith("noise.weight"):
        return tensor.reshape(1)
    return tensor.reshape(1, -1, 1, 1) if re.match(r"to_rgb.*\d\.bias$", name) else tensor


def _check_kernel(kernel: Tensor | None) -> None:
    """Only the usual filter [1, 3, 3, 1] is rebuilt; another one is refused rather than replaced."""
    if kernel is None or kernel.is_meta:
        return
    usual = make_filter()
    if kernel.shape != usual.shape or not torch.allclose(kernel.float() / kernel.float().sum(), usual, atol=1e-3):
        raise UserError("The network resamples with another filter than [1, 3, 3, 1], which is not supported.")


def _average(latent_avg: Any) -> Tensor | None:
    if not isinstance(latent_avg, Tensor) or not latent_avg.numel() or latent_avg.ndim not in (1, 2, 3):
        return None
    rows = latent_avg.detach().reshape(-1, latent_avg.shape[-1])
    # Encoders keep one row per layer, mostly equal ones.
    return rows[0] if rows.is_meta or bool((rows == rows[0]).all()) else rows.float().mean(0)


def _last_width(named: Mapping[str, Tensor]) -> int:
    last = max((n for n in named if re.fullmatch(r"mapping\.fc\d+\.weight", n)), key=lambda n: int(n[10:-7]))
    return named[last].shape[0]


def _set_average(generator: Generator) -> None:
    config = generator.config
    z = torch.randn(_MEAN_SAMPLES, config.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not config.c_dim:
            generator.mapping.w_avg.copy_(generator.mapping.map_one(z).mean(0))


def _add_noise(named: dict[str, Tensor]) -> None:
    """Early checkpoints hold no noise maps, they were drawn for each picture: fixed ones take their place."""
    source = torch.Generator().manual_seed(0)
    for name in sorted(named):
        match = re.fullmatch(r"(synthesis\.b(\d{1,5})\.conv[01])\.noise_strength", name)
        if match and f"{match[1]}.noise_const" not in named and int(match[2]) <= 4096:
            size = int(match[2])
            device = "meta" if named[name].is_meta else "cpu"
            named[f"{match[1]}.noise_const"] = (
                torch.empty(size, size, device=device)
                if device == "meta"
                else torch.randn(size, size, generator=source)
            )


def _describe(network: Generator | Discriminator, covered: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings that no tensor tells, and the tensors without a place."""
    config = asdict(network.config)
    settings = {
        name: config[name] for name in ("conv_clamp", "learning_rate_multiplier", "group_size") if name in config
    }
    left = {
        name: value.detach().cpu().clone()
        for name, value in network.state_dict().items()
        if name not in covered and not name.endswith(("resample_filter", "w_avg"))
    }
    return {"settings": settings, "tensors": left}


def _own(own: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse of :func:`_describe`, of untrusted content."""
    own = plain(own) if isinstance(own, dict) else {}
    settings = own.get("settings")
    known: dict[str, Any] = {}
    for name, value in (settings if isinstance(settings, dict) else {}).items():
        if name in ("conv_clamp", "learning_rate_multiplier") and type(value) in (int, float):
            known[name] = float(value)
        elif name == "group_size" and (value is None or (type(value) is int and value > 0)):
            known[name] = value
    return known, tensors_of(own.get("tensors"))


def own_tensors(content: Any, name: str) -> dict[str, Tensor]:
    """Of a file of ours: the tensors that its network "g", "g_ema" or "d" has besides, by official names."""
    own = content.get(OWN) if isinstance(content, dict) else None
    entry = own.get("discriminator" if name == "d" else "generator") if isinstance(own, dict) else None
    return tensors_of(entry.get("tensors")) if isinstance(entry, dict) and name in ("g", "g_ema", "d") else {}


def _require_representable(generator: Generator, discriminator: Discriminator | None) -> None:
    config = generator.config
    assert isinstance(config, GeneratorConfig)
    wrong = []
    if config.c_dim:
        wrong.append(f"a condition (c_dim {config.c_dim})")
    if config.architecture != "skip":
        wrong.append(f"a generator of architecture {config.architecture!r}")
    if not config.use_noise:
        wrong.append("no noise")
    if config.image_channels != 3:
        wrong.append(f"{config.image_channels} picture channels")
    if config.z_dim != config.w_dim or config.mapping_width not in (None, config.w_dim):
        wrong.append("a mapping of several widths")
    if discriminator is not None and discriminator.config.architecture != "resnet":
        wrong.append(f"a discriminator of architecture {discriminator.config.architecture!r}")
    if wrong:
        raise UserError(
            f"rosinality's code has no {' and no '.join(wrong)}, so this network cannot be written for it: write "
            "safetensors, or pass extended=True for a file that only this library reads."
        )
