"""What a checkpoint's pickle may consist of. None of these runs anything of the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.stylegan.formats.errors import damaged
from backbones.stylegan.formats.source import Gap

ByteString = (bytes, bytearray)

STORAGE_TYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

NUMPY_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class Stub:
    """An inert object: `state` is what its __dict__ was, `class_name` what it claimed to be."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[Any, Any]) -> None:
        self.class_name = class_name
        self.state = state


class StubClass:
    """An allowed class whose objects become stubs."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Function:
    """An allowed callable. Slots and no setters: a file cannot change it through BUILD (refused anyway)."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


class Marker:
    """An allowed name that may be an argument but not be called: a storage type, numpy.ndarray."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any = None) -> None:
        self.name = name
        self.value = value


class Storage:
    """A typed block of bytes from which tensors are made.

    size: number of bytes, None while unknown. data: the bytes, None when only shapes are wanted.
    """

    __slots__ = ("_flat", "data", "dtype", "size", "wanted")

    def __init__(self, dtype: torch.dtype, size: int | None = None, data: Any = None) -> None:
        self.dtype = dtype
        self.size = size
        self.data = data
        self.wanted = 0  # elements that its persistent id announces
        self._flat: Tensor | None = None

    def flat(self) -> Tensor:
        """All elements as one tensor, sharing memory with `data`."""
        if self._flat is None:
            data = self.data if isinstance(self.data, bytearray | memoryview) else bytearray(self.data)
            self._flat = torch.frombuffer(data, dtype=self.dtype)
        return self._flat


class DType:
    """A numpy dtype of plain numbers; its state gives the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or type(state[1]) is not str:
            raise damaged("a numpy dtype has an unknown state")
        if state[1] not in ("<", ">", "|", "="):
            raise damaged("a numpy dtype has an unknown byte order")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(("<" if self.order in "|=" else self.order) + self.code)


class Array:
    """A numpy array of plain numbers under construction."""

    __slots__ = ("shape", "value")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.value: np.ndarray[Any, Any] | None = None  # None when only shapes are wanted

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise damaged("a numpy array has an unknown state")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, DType) or not isinstance(data, (*ByteString, Gap)) or not is_shape(shape):
            raise damaged("a numpy array is not one of plain numbers")
        kind = dtype.numpy()
        size = data.size if isinstance(data, Gap) else len(data)
        if count(shape) * kind.itemsize != size:
            raise damaged("a numpy array's size does not fit its data")
        self.shape = shape
        if not isinstance(data, Gap):
            order = "F" if fortran is True else "C"
            self.value = np.frombuffer(data, dtype=kind).reshape(shape, order=order)  # type: ignore[call-overload]

    def tensor(self) -> Tensor:
        """As a tensor: of the same values, or on the meta device if only shapes were wanted."""
        if self.shape is None:
            raise damaged("a numpy array has no data")
        if self.value is None:
            return torch.empty(self.shape, device="meta")
        kind = self.value.dtype
        if not kind.isnative or (kind.kind == "u" and kind.itemsize > 1):
            raise damaged(f"a weight is an array of {kind}")
        # Shared, not copied: many arrays may be made of the same bytes.
        return torch.from_numpy(self.value if self.value.flags.writeable else self.value.copy())


def is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 2**40 for n in value)


def count(shape: tuple[int, ...]) -> int:
    result = 1
    for n in shape:
        result *= n
    return result


def plain_keys(values: Any) -> Any:
    """Keys and set members may only be plain values: hashing nested tuples can take for ever.

    Whole numbers from 2^61 on are refused too: Python hashes them modulo 2^61 - 1, so that they can be chosen
    to collide.
    """
    for value in values:
        if value is not None and type(value) not in (str, int, float, bool, bytes):
            raise damaged(f"a {type(value).__name__} is used as a key")
        if type(value) is int and not -(2**60) < value < 2**60:
            raise damaged("a huge number is used as a key")
    return values
