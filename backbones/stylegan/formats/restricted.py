"""A pickle reader for StyleGAN checkpoints that runs nothing of the file.

An official .pkl asks for a function of `torch_utils.persistence` that executes source text stored in the
file, and for `torch.storage._load_from_bytes`, which unpickles without limits. Here every global is looked
up in a fixed table of inert replacements; a name that is not in it is refused by name. What a file can
reach are dict, OrderedDict and the classes of this module, none of which calls anything.

The reader is the Python one of the standard library (`pickle._Unpickler`), not the C one, for two reasons:
opcodes can be taken out of it, and its memo is a dict, so that a file cannot allocate memory by
naming a large memo index.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from unified.errors import UserError

MAX_DEPTH = 64
"""Nested storages and stubs within stubs deeper than this are refused."""


class UnsafeFileError(UserError):
    """A file that asks for something outside the allow list, or is damaged. Nothing of it was run.

    global_name: the refused "module.name", or None if the file is damaged or misuses an allowed one.
    """

    def __init__(self, message: str, *, global_name: str | None = None) -> None:
        super().__init__(message)
        self.global_name = global_name


class Stub:
    """An inert network object: `state` is what its __dict__ was, `class_name` what it claimed to be."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[Any, Any]) -> None:
        self.class_name = class_name
        self.state = state


class _Function:
    """An allowed callable. Slots and no setters: a file cannot change it through BUILD (refused anyway)."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


class _Marker:
    """An allowed name that may be an argument but not be called: a storage type, numpy.ndarray."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any = None) -> None:
        self.name = name
        self.value = value


class _Storage:
    """A typed block of bytes from which tensors are made."""

    __slots__ = ("data", "dtype")

    def __init__(self, dtype: torch.dtype, data: bytes | bytearray | None = None) -> None:
        self.dtype = dtype
        self.data = data


class _DType:
    """A numpy dtype of plain numbers; its state gives the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _damaged("a numpy dtype has an unknown state")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(("<" if self.order in "|=" else self.order) + self.code)


class _Array:
    """A numpy array of plain numbers under construction."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _damaged("a numpy array has an unknown state")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes) or not _is_shape(shape):
            raise _damaged("a numpy array is not one of plain numbers")
        kind = dtype.numpy()
        if _count(shape) * kind.itemsize != len(data):
            raise _damaged("a numpy array's size does not fit its data")
        order = "F" if fortran else "C"
        self.value = np.frombuffer(data, dtype=kind).reshape(shape, order=order).copy()  # type: ignore[call-overload]


_STORAGE_TYPES: dict[str, torch.dtype] = {
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

_NUMPY_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def _damaged(why: str) -> UnsafeFileError:
    return UnsafeFileError(f"The file is damaged or not a StyleGAN checkpoint: {why}. Download it again.")


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 2**40 for n in value)
    )


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _network(meta: Any) -> Stub:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise _damaged("a network carries no state")
    return Stub(str(meta.get("class_name")), meta["state"])


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor(_v2): a tensor over a storage, never larger than it."""
    if not isinstance(storage, _Storage) or storage.data is None:
        raise _damaged("a tensor has no storage")
    if not _is_shape(size) or not _is_shape(stride) or len(size) != len(stride) or type(offset) is not int:
        raise _damaged("a tensor has no valid shape")
    available = len(storage.data) // storage.dtype.itemsize
    count = _count(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if offset < 0 or count > available or last >= max(available, 1):
        raise _damaged("a tensor reaches past the end of its storage")
    if count == 0:
        return torch.empty(size, dtype=storage.dtype)
    flat = torch.frombuffer(bytearray(storage.data), dtype=storage.dtype)
    return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _damaged("a parameter is not a tensor")
    return data


def _dtype(code: Any, *_: Any) -> _DType:
    if code not in _NUMPY_CODES:
        raise _damaged(f"numpy dtype {str(code)[:20]!r} is not one of plain numbers")
    return _DType(code)


def _scalar(dtype: Any, data: Any) -> float:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.numpy().itemsize:
        raise _damaged("a numpy scalar is not a plain number")
    value: float = np.frombuffer(data, dtype=dtype.numpy())[0].item()
    return value


def _array(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _damaged("bytes are stored in an unknown way")
    return text.encode("latin1")


def _set(values: Any = ()) -> set[Any]:
    return set(_plain_keys(values))


def _plain_keys(values: Any) -> Any:
    """Keys and set members may only be plain values: hashing nested tuples can take for ever."""
    for value in values:
        if value is not None and type(value) not in (str, int, float, bool, bytes):
            raise _damaged(f"a {type(value).__name__} is used as a key")
    return values


def _common() -> dict[str, Any]:
    numpy_names = {
        f"{package}.multiarray.{name}": _Function(name, call)
        for package in ("numpy.core", "numpy._core")
        for name, call in (("scalar", _scalar), ("_reconstruct", _array))
    }
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": _Function("network", _network),
        "dnnlib.util.EasyDict": dict,
        "collections.OrderedDict": collections.OrderedDict,
        "builtins.set": _Function("set", _set),
        "__builtin__.set": _Function("set", _set),  # the same, as protocol 2 spells it
        "torch._utils._rebuild_tensor_v2": _Function("tensor", _tensor),
        "torch._utils._rebuild_tensor": _Function("tensor", _tensor),
        "torch._utils._rebuild_parameter": _Function("parameter", _parameter),
        "numpy.ndarray": _Marker("numpy.ndarray"),
        "numpy.dtype": _Function("dtype", _dtype),
        "_codecs.encode": _Function("encode", _encode),
        **numpy_names,
    }


_REFUSED_OPCODES = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class _Reader(pickle._Unpickler):
    """Only the opcodes that plain data needs, and only the given globals."""

    dispatch: dict[int, Any] = {  # type: ignore[misc,assignment]
        code: handler
        for code, handler in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in _REFUSED_OPCODES
    }
    stack: list[Any]

    def __init__(self, file: BinaryIO, allowed: dict[str, Any], depth: int = 0) -> None:
        super().__init__(file)
        self.allowed = allowed
        self.depth = depth
        self.storages: dict[str, _Storage] | None = None

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "torch.storage._load_from_bytes":
            return _Function("storage", lambda data: _read_storage(data, self.depth + 1))
        try:
            return self.allowed[full]
        except KeyError:
            raise UnsafeFileError(
                f"The file asks for {full[:200]!r}, which is not part of a StyleGAN checkpoint and was not "
                "loaded. If you do not trust its source, delete it.",
                global_name=full,
            ) from None

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(arguments, tuple):
            raise _damaged("a call without arguments")
        if function is dict or function is collections.OrderedDict:
            if arguments:
                raise _damaged("a dict with arguments")
            self.stack[-1] = function()
        elif isinstance(function, _Function):
            self.stack[-1] = function.call(*arguments)
        else:
            raise _damaged("a call of something that is no function")

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack.pop()
        if arguments != () or (kind is not dict and kind is not collections.OrderedDict):
            raise _damaged("an object of a class that may not be created")
        self.stack.append(kind())

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (_DType, _Array)):
            target.set_state(state)
        elif not isinstance(target, dict):
            raise _damaged("state for something that takes none")
        # The state of a dict is attributes such as OrderedDict._metadata: not needed.

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())  # type: ignore[attr-defined]

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise _damaged("items for something that is no dict")
        target.update(zip(_plain_keys(items[::2]), items[1::2], strict=True))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())  # type: ignore[attr-defined]

    def _extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _damaged("members for something that is no list")
        self.stack[-1].extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()  # type: ignore[attr-defined]
        if type(self.stack[-1]) is not set:
            raise _damaged("members for something that is no set")
        self.stack[-1].update(_plain_keys(values))

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append({})
        self._fill(items)

    def persistent_load(self, pid: Any) -> Any:
        """Inside a storage stream: ("storage", type, key, location, count, None)."""
        if self.storages is None or not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage":
            raise _damaged("an object is stored outside the file")
        _, kind, key, _, _, view = pid
        if (
            not isinstance(kind, _Marker)
            or not isinstance(kind.value, torch.dtype)
            or type(key) is not str
            or view
        ):
            raise _damaged("a storage of an unknown type")
        return self.storages.setdefault(key, _Storage(kind.value))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.DICT[0]] = load_dict


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def _read_storage(data: Any, depth: int) -> _Storage:
    """The nested stream of one storage: the legacy format of torch.save, read by hand.

    Five pickles (magic number, protocol, machine, object, keys), then for each key the number of elements
    as int64 and the raw values. Read by hand rather than by torch.load, so that the declared number of
    elements is compared with the bytes that are there before anything is allocated.
    """
    if not isinstance(data, bytes) or depth > 1:
        raise _damaged("a storage is not stored as bytes")
    stream = io.BytesIO(data)
    allowed: dict[str, Any] = {
        f"torch.{name}": _Marker(name, dtype) for name, dtype in _STORAGE_TYPES.items()
    }

    def load() -> Any:
        reader = _Reader(stream, allowed, depth)
        reader.storages = storages
        return reader.load()

    storages: dict[str, _Storage] = {}
    if load() != _LEGACY_MAGIC or load() != _LEGACY_PROTOCOL:
        raise _damaged("a storage is in an unknown format")
    load()
    result = load()
    keys = load()
    if not isinstance(result, _Storage) or not isinstance(keys, list):
        raise _damaged("a storage holds something else")
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        header = stream.read(8)
        if storage is None or len(header) != 8:
            raise _damaged("a storage is cut off")
        (count,) = struct.unpack("<q", header)
        size = count * storage.dtype.itemsize
        if count < 0 or size > len(data) - stream.tell():
            raise _damaged("a storage is cut off")
        storage.data = stream.read(size)
    return result


def read_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain data, tensors and networks (as :class:`Stub`).

    Raises UnsafeFileError, and nothing else, for whatever the file holds; memory stays within a small
    multiple of the file's size.
    """
    try:
        return _Reader(file, _common()).load()
    except UnsafeFileError:
        raise
    except MemoryError:
        raise _damaged("it needs more memory than there is") from None
    except Exception as error:  # whatever a malformed stream provokes in the reader
        raise _damaged(f"{type(error).__name__} while reading ({str(error)[:200]})") from None


def plain(value: Any, *, depth: int = 0) -> Any:
    """Arrays under construction replaced by the arrays, in nested dicts, lists and tuples."""
    if depth > MAX_DEPTH:
        raise _damaged("values are nested too deeply")
    if isinstance(value, _Array):
        if value.value is None:
            raise _damaged("a numpy array has no data")
        return value.value
    if isinstance(value, dict):
        return {key: plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item, depth=depth + 1) for item in value)
    return value
