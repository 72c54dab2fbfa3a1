"""Loading the compiled kernels, and whether a tensor can go to them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from backbones.stylegan.ops.native import build
from unified.errors import UserError

_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
}
_loaded: dict[str, Path | None] = {}  # device type -> library, or None after a first attempt that failed


def load(device: Literal["cpu", "cuda"] = "cpu", *, compile: bool = True, jobs: int | None = None) -> bool:
    """Load the kernels for "cpu" or "cuda" tensors. True if they are loaded now.

    compile: build them if the cache does not have them (a minute or two); else only what is there is used.
    Raises UserError where a compiler is missing or fails, and for "cuda" where torch finds no CUDA device.
    """
    if device not in _DTYPES:
        raise UserError(f"device={device!r}; kernels exist for 'cpu' and 'cuda'.")
    if _loaded.get(device) is not None:
        return True
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("The CUDA kernels were asked for, but torch finds no CUDA device.")
    library = build.build(device, jobs=jobs) if compile else build.find(device)
    if library is None:
        return False
    from backbones.stylegan.ops.native import operators  # noqa: F401  (declares what the library implements)

    torch.ops.load_library(str(library))
    _loaded[device] = library
    return True


def load_built(device: Literal["cpu", "cuda"] = "cpu") -> None:
    """Load kernels that were built before, and compile none. Decided once in a process, so that the same call gives
    the same bits throughout it, whenever kernels appear."""
    if device not in _loaded and not load(device, compile=False):
        _loaded[device] = None


def loaded(device: str = "cpu") -> bool:
    """True if the kernels of this device type are loaded."""
    return _loaded.get(device) is not None


def ready(x: Tensor) -> bool:
    """True if the kernels take x. The first CUDA tensor compiles and loads the CUDA kernels; where that fails,
    a warning says why, once, and everything runs in torch."""
    device = x.device.type
    if device == "cuda" and device not in _loaded and not torch.compiler.is_compiling():
        try:
            load("cuda")
        except UserError as error:
            _loaded["cuda"] = None
            warnings.warn(f"{error} The StyleGAN operations run in plain torch.", stacklevel=2)
    return _loaded.get(device) is not None and x.dtype in _DTYPES[device]


def unload(device: str) -> None:
    """Run in torch again. The library stays in the process; `load` takes it up at once."""
    _loaded.pop(device, None)


@contextmanager
def disabled() -> Iterator[None]:
    """Within this context everything runs in torch: for comparisons."""
    kept = dict(_loaded)
    _loaded.update(dict.fromkeys(_DTYPES))
    try:
        yield
    finally:
        _loaded.clear()
        _loaded.update(kept)
