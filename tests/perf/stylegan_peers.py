"""What `tests.perf.stylegan` compares with: the plain formula, and the official code from a checkout."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stylegan import Generator
from backbones.stylegan.stylegan3.synthesis import AliasFreeSynthesis
from backbones.stylegan.synthesis import Synthesis

Noise = Mapping[str, Tensor]


def modulated(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool, padding: int, up: bool = False) -> Tensor:
    """Karras et al. 2020, equations 1 to 3, as they are written: one weight per picture."""
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, -1, *x.shape[2:])
    if up:
        y = F.conv_transpose2d(x, w.transpose(1, 2).flatten(0, 1), stride=2, groups=len(w))
    else:
        y = F.conv2d(x, w.flatten(0, 1), padding=padding, groups=len(w))
    return y.view(len(w), -1, *y.shape[2:])


def resample(x: Tensor, filter: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, ...], gain: float) -> Tensor:
    """Zeros inserted, padded, filtered, every down-th sample kept."""
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.view(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).view(n, c, h * up, w * up)
    x = F.pad(x, padding)
    lines = [filter[None, :], filter[:, None]] if filter.ndim == 1 else [filter]
    for k, line in enumerate(lines):
        kernel = line.flip(0, 1).expand(c, 1, -1, -1) * (gain if k == 0 else 1.0)
        x = F.conv2d(x, kernel, groups=c)
    return x[:, :, ::down, ::down]


def plain(synthesis: Synthesis | AliasFreeSynthesis, ws: Tensor, noise: Noise | None) -> Tensor:
    """Pictures by the plain formulas from the weights of our network."""
    return (
        _alias_free(synthesis, ws) if isinstance(synthesis, AliasFreeSynthesis) else _skip(synthesis, ws, noise or {})
    )


def _skip(synthesis: Synthesis, ws: Tensor, noise: Noise) -> Tensor:
    image, k, x = None, 0, torch.empty(0)
    for size in synthesis.config.sizes:
        block: Any = synthesis.block(size)
        x = block.const.expand(len(ws), -1, -1, -1) if size == 4 else x
        for name in ("conv1",) if size == 4 else ("conv0", "conv1"):
            layer = getattr(block, name)
            y = modulated(x, layer.weight, layer.affine(ws[:, k]), demodulate=True, padding=1, up=layer.up == 2)
            if layer.up == 2:
                y = resample(y, layer.resample_filter, padding=(1, 1, 1, 1), gain=4.0)
            y = y + noise.get(f"b{size}.{name}", layer.noise_const) * layer.noise_strength
            y = F.leaky_relu(y + layer.bias[:, None, None], 0.2) * math.sqrt(2.0)
            x, k = y.clamp(-layer.conv_clamp, layer.conv_clamp), k + 1
        styles = block.torgb.affine(ws[:, k]) / math.sqrt(x.shape[1])
        rgb = modulated(x, block.torgb.weight, styles, demodulate=False, padding=0) + block.torgb.bias[:, None, None]
        rgb = rgb.clamp(-block.torgb.conv_clamp, block.torgb.conv_clamp)
        if image is not None:
            image = resample(image, block.resample_filter, up=2, padding=(2, 1, 2, 1), gain=4.0)
        image = rgb if image is None else image + rgb
    assert image is not None
    return image


def _alias_free(synthesis: AliasFreeSynthesis, ws: Tensor) -> Tensor:
    x = synthesis.input(ws[:, 0])
    for k, layer in enumerate(synthesis.plan):
        module: Any = synthesis.get_submodule(layer.name)
        styles = module.affine(ws[:, k + 1])
        if layer.is_rgb:
            styles = styles / math.sqrt(module.weight[0].numel())
        y = modulated(x, module.weight, styles, demodulate=not layer.is_rgb, padding=layer.kernel_size - 1)
        y = y * module.magnitude_ema.rsqrt() + module.bias[:, None, None]
        if not layer.is_rgb:
            pad = (*layer.padding, *layer.padding)
            y = resample(y, module.up_filter, up=layer.up, padding=pad, gain=float(layer.up**2))
            y = F.leaky_relu(y, 0.2) * math.sqrt(2.0)
        y = y if module.conv_clamp is None else y.clamp(-module.conv_clamp, module.conv_clamp)
        if not layer.is_rgb:
            y = resample(y, module.down_filter, down=layer.down, padding=(0, 0, 0, 0), gain=1.0)
        x = y
    return x * synthesis.config.output_scale


def official(path: Path, generator: Generator, kind: str) -> tuple[nn.Module, Callable[[Tensor, Noise | None], Tensor]]:
    """The official synthesis network of the checkout at `path` with the weights of `generator`, and how it draws."""
    _importable(path)
    config = generator.config
    common: dict[str, Any] = {
        "z_dim": 512,
        "c_dim": 0,
        "w_dim": 512,
        "img_resolution": config.resolution,
        "img_channels": 3,
    }
    if kind == "stylegan2":
        try:
            from training.networks_stylegan2 import Generator as Official
        except ImportError:  # the older repository
            from training.networks import Generator as Official

            common["synthesis_kwargs"] = {"conv_clamp": 256}
        else:
            common["conv_clamp"] = 256
    else:
        from training.networks_stylegan3 import Generator as Official

        if kind == "stylegan3-r":
            common |= {"channel_base": 65536, "channel_max": 1024, "conv_kernel": 1, "use_radial_filters": True}
    network = Official(**common)
    missing, unexpected = network.load_state_dict(generator.state_dict(), strict=False)
    left = [name for name in missing if "filter" not in name and "input.transform" not in name]
    if left or unexpected:
        raise SystemExit(f"{path}: the networks differ in {left + list(unexpected)}")
    network = network.to(next(generator.parameters()).device).eval().requires_grad_(False)
    synthesis = network.synthesis

    def draw(ws: Tensor, noise: Noise | None) -> Tensor:
        for name, value in (noise or {}).items():
            layer = synthesis.get_submodule(name)
            if layer.noise_const is not value:
                layer.noise_const = value
        settings = {"noise_mode": "const"} if kind == "stylegan2" else {}
        image: Tensor = synthesis(ws, force_fp32=True, **settings)
        return image

    return synthesis, draw


@dataclass(frozen=True)
class OfficialOps:
    """The operations of the official repository, with its arguments."""

    upfirdn2d: Callable[..., Tensor]
    upsample2d: Callable[..., Tensor]
    downsample2d: Callable[..., Tensor]
    bias_act: Callable[..., Tensor]
    filtered_lrelu: Callable[..., Tensor]


def official_ops(path: Path) -> OfficialOps:
    """Those of the StyleGAN3 checkout at `path`; on a GPU they compile its plugins at the first call."""
    _importable(path)
    from torch_utils.ops import bias_act, filtered_lrelu, upfirdn2d

    return OfficialOps(
        upfirdn2d.upfirdn2d,
        upfirdn2d.upsample2d,
        upfirdn2d.downsample2d,
        bias_act.bias_act,
        filtered_lrelu.filtered_lrelu,
    )


def _importable(path: Path) -> None:
    """The checkout on the import path, and what it imports and current installations lack."""
    _stand_in("distutils.util", strtobool=lambda text: int(text.lower() in ("y", "yes", "t", "true", "on", "1")))
    _stand_in(
        "pkg_resources", parse_version=lambda text: tuple(int(part) for part in text.split("+")[0].split(".")[:2])
    )
    sys.path.insert(0, str(path))


def _stand_in(name: str, **members: Any) -> None:
    """Modules that the official code imports and current installations lack."""
    try:
        __import__(name)
    except ImportError:
        parent, _, _ = name.partition(".")
        for each in dict.fromkeys((parent, name)):
            sys.modules.setdefault(each, types.ModuleType(each))
        for key, value in members.items():
            setattr(sys.modules[name], key, value)
