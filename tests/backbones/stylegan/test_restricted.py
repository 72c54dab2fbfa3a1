"""Hostile and damaged files: nothing runs, and only the documented exception comes out."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.stylegan.formats.official import read_official
from backbones.stylegan.formats.restricted import UnsafeFileError, plain, read_pickle

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def nested(payload: object) -> bytes:
    """A tensor whose storage blob holds `payload`: torch's own loader would unpickle it without limits."""
    return pickle.dumps(Calls(torch.storage._load_from_bytes, pickle.dumps(payload)))


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "executed"
    command = f"touch {mark}"
    hostile = {
        "posix.system": pickle.dumps(Calls(os.system, command)),
        "builtins.eval": pickle.dumps(Calls(eval, f"__import__('os').system({command!r})")),
        "builtins.exec": pickle.dumps(Calls(exec, f"open({str(mark)!r}, 'w')")),
        "builtins.getattr": pickle.dumps(Calls(getattr, "a", "upper")),
        "subprocess.Popen": opcodes(short("subprocess"), short("Popen"), b"\x93"),
        "os.system.__call__": opcodes(short("os"), short("system.__call__"), b"\x93"),
        "torch.load": opcodes(short("torch"), short("load"), b"\x93"),
        "torch.storage.sys.modules": opcodes(short("torch.storage"), short("sys.modules"), b"\x93"),
        "nt.system": b"cnt\nsystem\n(S'x'\ntR.",
        "numpy.load": opcodes(short("numpy"), short("load"), b"\x93"),
    }
    for name, data in hostile.items():
        with pytest.raises(UnsafeFileError) as caught:
            read_pickle(io.BytesIO(data))
        assert caught.value.global_name == name
        assert name in str(caught.value)
    with pytest.raises(UnsafeFileError) as caught:
        read_pickle(io.BytesIO(nested(Calls(os.system, command))))
    assert caught.value.global_name == "posix.system"
    assert not mark.exists()


REDUCE_DICT = b"cdnnlib.util\nEasyDict\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cos\n",
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'x'\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"P1\n.",  # persistent id
        opcodes(b"ccollections\nOrderedDict\n", b"}", short("fromkeys"), b"K\x01s", b"b"),  # state for a class
        opcodes(b"ctorch._utils\n_rebuild_parameter\n", b"}", short("call"), b"K\x01s", b"b"),  # for a function
        opcodes(b"cdnnlib.util\nEasyDict\n", b")\x81", b"K\x01K\x02\x86K\x03\x86K\x00s"),  # a tuple as a key
        opcodes(b"cbuiltins\nset\n", b"]K\x01K\x02\x86a\x85R"),
        opcodes(REDUCE_DICT, b"]\x85R"),
        opcodes(b"]", b"K\x01\x85", b"R"),
        b"\x80\x04]r\xff\xff\xff\xff" + b"h\x00.",  # memo index 2^32 - 1, then one that is not there
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a string of 2^63 bytes
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # a number of 2^31 bytes
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of that length
        pickle.dumps(np.array([object], dtype=object)),
        pickle.dumps(np.array([[1, 2]]).view(np.dtype([("a", "i8")]))),
    ],
)
def test_misuse_and_bombs(data):
    with pytest.raises(UnsafeFileError):
        plain(read_pickle(io.BytesIO(data)))


def storage_blob(count: int, data: bytes, dtype: str = "FloatStorage") -> bytes:
    """A legacy torch.save stream with one storage that claims `count` elements."""
    key = b"X\x01\x00\x00\x000"
    pid = b"(" + short("storage") + b"ctorch\n" + dtype.encode() + b"\n" + key + short("cpu") + b"K\x01Nt"
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({}, 2),
        b"\x80\x02" + pid + b"Q.",
        b"\x80\x02]" + key + b"a.",
    ]
    return b"".join(parts) + count.to_bytes(8, "little", signed=True) + data


def tensor_pickle(blob: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    storage = Calls(torch.storage._load_from_bytes, blob)
    return pickle.dumps(
        Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, collections.OrderedDict())
    )


def test_storages_are_bounded_by_the_file():
    values = np.arange(6, dtype=np.float32)
    good = tensor_pickle(storage_blob(6, values.tobytes()), (2, 3), (3, 1))
    assert torch.equal(read_pickle(io.BytesIO(good)), torch.arange(6.0).view(2, 3))
    transposed = tensor_pickle(storage_blob(6, values.tobytes()), (3, 2), (1, 3))
    assert torch.equal(read_pickle(io.BytesIO(transposed)), torch.arange(6.0).view(2, 3).t())
    blob = storage_blob(6, values.tobytes())
    for bad in (
        tensor_pickle(storage_blob(2**40, values.tobytes()), (2, 3), (3, 1)),
        tensor_pickle(storage_blob(-1, values.tobytes()), (2, 3), (3, 1)),
        tensor_pickle(blob, (2**39,), (1,)),
        tensor_pickle(blob, (2**39,), (0,)),  # much from little, by stride 0
        tensor_pickle(blob, (2, 3), (4, 1)),
        tensor_pickle(blob, (6,), (1,), offset=1),
        tensor_pickle(blob, (6,), (1,), offset=-1),
        tensor_pickle(storage_blob(6, values.tobytes(), "ComplexFloatStorage"), (6,), (1,)),
    ):
        with pytest.raises(UnsafeFileError):
            read_pickle(io.BytesIO(bad))


def test_real_torch_pickles_are_read_exactly():
    torch.manual_seed(0)
    content = {
        "tensor": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "whole": torch.arange(4),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "view": torch.randn(4, 4)[1:, ::2],
        "number": np.float64(1.5),
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "set": {"a", "b"},
        "ordered": collections.OrderedDict(a=1),
    }
    for protocol in (2, 4):
        got = plain(read_pickle(io.BytesIO(pickle.dumps(content, protocol))))
        for key in ("tensor", "half", "whole", "parameter", "view"):
            assert torch.equal(got[key], content[key].detach())
        assert got["number"] == 1.5
        assert np.array_equal(got["array"], content["array"])
        assert got["set"] == {"a", "b"}
        assert got["ordered"] == {"a": 1}


def test_damaged_files_raise_only_the_documented_error(tmp_path):
    data = (FIXTURES / "sg2_32_resnet.pkl").read_bytes()
    chance = random.Random(0)
    for _ in range(150):
        damaged = bytearray(data[: chance.randrange(2000, 20000)] if chance.random() < 0.3 else data)
        for _ in range(chance.randrange(1, 20)):
            damaged[chance.randrange(min(len(damaged), 20000))] = chance.randrange(256)
        with contextlib.suppress(UnsafeFileError):
            read_pickle(io.BytesIO(bytes(damaged)))


def test_missing_file_and_wrong_content(tmp_path):
    from unified.errors import UserError

    with pytest.raises(UserError, match="cannot be read"):
        read_official(tmp_path / "none.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="holds a list"):
        read_official(tmp_path / "list.pkl")
