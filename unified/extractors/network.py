"""The convolutional trunk that the extractors share, and how they are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from unified.compact import packed, unpacked
from unified.errors import UserError
from unified.files import write_files

SIZE = 64
WEIGHTS = Path(__file__).parent.parent / "zoo" / "weights"


def convolution(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """x + f(x), f one convolution: the depth that small pictures need at little cost."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Trunk(nn.Module):
    """Pictures [N,3,64,64] in 0..1 to features [N, features].

    The faces are aligned, so the last grid of 8 x 8 is kept (flattened), not averaged: what is where matters.
    """

    def __init__(self, width: int, features: int, *, grid_channels: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            convolution(12, width),
            convolution(width, 2 * width, stride=2),
            Residual(2 * width),
            convolution(2 * width, 4 * width, stride=2),
            Residual(4 * width),
            convolution(4 * width, grid_channels, kernel=1),
            nn.Flatten(),
            nn.Linear(grid_channels * 64, features),
        )

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images * 2 - 1)
        return out


def check_images(images: Tensor) -> Tensor:
    """The pictures at 64 x 64 (resized if they are not), still differentiable.

    Raises UserError if they are not float [N,3,H,W]; values are expected in 0..1.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UserError(
            f"The extractor was given {images.dtype} of shape {tuple(images.shape)}; "
            "give float images [N, 3, height, width] in 0..1."
        )
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)


def save_model(folder: Path, module: nn.Module, config: Mapping[str, object], card: str) -> None:
    """Write model.safetensors (see `unified.compact`), config.json and card.md into `folder`, all or none."""
    write_files(
        {
            folder / "model.safetensors": save(packed(module.state_dict())),
            folder / "config.json": (json.dumps(config, indent=1) + "\n").encode(),
            folder / "card.md": card.encode(),
        }
    )


def read_config(folder: Path, kind: str) -> dict[str, object]:
    """The config.json of a stored extractor; UserError if there is none or it is another kind's."""
    path = folder / "config.json"
    try:
        config: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"No extractor in {folder}: {path} cannot be read ({error}).") from error
    if config.get("kind") != kind:
        raise UserError(f"{folder} holds {config.get('kind')!r}, not the expected {kind!r}.")
    return config


def read_weights(folder: Path, module: nn.Module) -> None:
    """Load model.safetensors of `folder` into `module` as fp32; UserError if it is missing or another's."""
    path = folder / "model.safetensors"
    try:
        module.load_state_dict(unpacked(load_file(path)))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"The weights in {path} cannot be loaded: {error}") from error
    module.eval().requires_grad_(False)


def channels_last(module: nn.Module) -> nn.Module:
    """The module with its weights in the memory order that convolutions are fastest in."""
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def parameters_of(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def batches(images: Tensor, size: int = 250) -> list[Tensor]:
    """Split a large stack of pictures, so that measuring takes little memory."""
    return list(images.split(size))
