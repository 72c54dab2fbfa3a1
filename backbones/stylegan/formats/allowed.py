"""The names that a checkpoint may ask for, and the inert things that stand for them."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.stylegan.formats.errors import damaged
from backbones.stylegan.formats.source import Source
from backbones.stylegan.formats.storages import read_nested
from backbones.stylegan.formats.values import (
    NUMPY_CODES,
    STORAGE_TYPES,
    Array,
    ByteString,
    DType,
    Function,
    Marker,
    Storage,
    Stub,
    StubClass,
    count,
    is_shape,
    plain_keys,
)

NETWORK = "torch_utils.persistence._reconstruct_persistent_obj"
TENSORFLOW = "dnnlib.tflib.network.Network"
NESTED = "torch.storage._load_from_bytes"


def names(source: Source, *, shapes: bool = False, incomplete: bool = False) -> dict[str, Any]:
    """The table for the file in `source`. Everything that is not in it is refused.

    shapes: tensors are made on the meta device, without values. incomplete: storages may still be unknown, and
    tensors over them are None (the first of the two passes over a legacy torch.save file).
    """

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | None:
        if incomplete and isinstance(storage, Storage):
            return None
        return _tensor(storage, offset, size, stride, shapes=shapes)

    def parameter(data: Any, *_: Any) -> Tensor | None:
        if not isinstance(data, Tensor) and not (incomplete and data is None):
            raise damaged("a parameter is not a tensor")
        return data

    def nested(data: Any) -> Storage:
        return read_nested(data, source, shapes=shapes)

    def encode(text: Any, encoding: Any) -> bytes:
        if type(text) is not str or type(encoding) is not str or encoding != "latin1":
            raise damaged("bytes are stored in an unknown way")
        source.budget.copy(len(text))
        return text.encode("latin1")

    def set_(values: Any = ()) -> set[Any]:
        if not isinstance(values, list | tuple):
            raise damaged("a set of something that is no list")
        source.budget.spend(len(values))
        return set(plain_keys(values))

    table: dict[str, Any] = {
        NETWORK: Function("network", _network),
        TENSORFLOW: StubClass("Network"),
        NESTED: Function("storage", nested),
        "argparse.Namespace": StubClass("Namespace"),
        "dnnlib.util.EasyDict": dict,
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": Function("tensor", rebuild),
        "torch._utils._rebuild_tensor": Function("tensor", rebuild),
        "torch._utils._rebuild_parameter": Function("parameter", parameter),
        "numpy.ndarray": Marker("numpy.ndarray"),
        "numpy.dtype": Function("dtype", _dtype),
        "_codecs.encode": Function("encode", encode),
    }
    for module in ("builtins", "__builtin__"):  # protocol 2 uses the names of Python 2
        table[f"{module}.set"] = Function("set", set_)
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray.scalar"] = Function("scalar", _scalar)
        table[f"{package}.multiarray._reconstruct"] = Function("array", _array)
    for name, dtype in STORAGE_TYPES.items():
        table[f"torch.{name}"] = Marker(name, dtype)
    return table


def _network(meta: Any) -> Stub:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise damaged("a network carries no state")
    name = meta.get("class_name")
    return Stub(name if type(name) is str else "unnamed", meta["state"])


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *, shapes: bool) -> Tensor:
    """torch._utils._rebuild_tensor(_v2): a tensor over a storage, never larger than it."""
    if not isinstance(storage, Storage) or storage.size is None:
        raise damaged("a tensor has no storage")
    if not is_shape(size) or not is_shape(stride) or len(size) != len(stride) or type(offset) is not int:
        raise damaged("a tensor has no valid shape")
    available = storage.size // storage.dtype.itemsize
    wanted = count(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if wanted else 0
    if offset < 0 or wanted > available or last >= max(available, 1):
        raise damaged("a tensor reaches past the end of its storage")
    if wanted == 0 or shapes:
        return torch.empty(size, dtype=storage.dtype, device="meta" if shapes else "cpu")
    return storage.flat().as_strided(size, stride, offset)


def _dtype(code: Any, *_: Any) -> DType:
    if type(code) is not str or code not in NUMPY_CODES:
        shown = repr(code[:20]) if type(code) is str else type(code).__name__
        raise damaged(f"numpy dtype {shown} is not one of plain numbers")
    return DType(code)


def _scalar(dtype: Any, data: Any) -> float:
    if not isinstance(dtype, DType) or not isinstance(data, ByteString) or len(data) != dtype.numpy().itemsize:
        raise damaged("a numpy scalar is not a plain number")
    value: float = np.frombuffer(data, dtype=dtype.numpy())[0].item()
    return value


def _array(*_: Any) -> Array:
    return Array()


ALLOWED = frozenset(names(Source(b"")))
"""Every allowed "module.name"."""

__all__ = ["ALLOWED", "NESTED", "NETWORK", "TENSORFLOW", "names"]
