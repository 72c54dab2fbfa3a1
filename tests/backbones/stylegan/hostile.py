"""Files that try to run code, to reach outside, or to use up memory or time. Each would work on a naive reader.

`corpus(mark)` gives them by name; all that run something would create the file `mark`. Those in `NAMED` ask for a
name that must be refused by that name. Nothing here is ever loaded by anything but the readers under test.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Builds:
    """Pickles to an object of `function()` with `state` given to BUILD."""

    def __init__(self, function, state, *arguments):
        self.function, self.state, self.arguments = function, state, arguments

    def __reduce__(self):
        return self.function, self.arguments, self.state


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def program(*parts: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


def legacy(payload: bytes, *, keys: bytes | None = None, rest: bytes = b"") -> bytes:
    """A legacy torch.save stream whose object is the pickle `payload`."""
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(PROTOCOL, 2), pickle.dumps({}, 2), payload]
    return b"".join(parts) + (pickle.dumps([], 2) if keys is None else keys) + rest


def storage(count: int, data: bytes, *, kind: str = "FloatStorage", announced: int = 0) -> bytes:
    """The legacy stream of one storage that claims `count` elements."""
    pid = (
        b"("
        + text("storage")
        + name("torch", kind)
        + text("0")
        + text("cpu")
        + b"J"
        + struct.pack("<i", announced)
        + b"Nt"
    )
    return legacy(
        b"\x80\x02" + pid + b"Q.", keys=b"\x80\x02]" + text("0") + b"a.", rest=struct.pack("<q", count) + data
    )


def nested(payload: bytes) -> bytes:
    """A call of torch's unrestricted loader on `payload`."""
    return pickle.dumps(Calls(torch.storage._load_from_bytes, payload))


def tensor(blob: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Calls:
    return Calls(
        torch._utils._rebuild_tensor_v2,
        Calls(torch.storage._load_from_bytes, blob),
        offset,
        size,
        stride,
        False,
        collections.OrderedDict(),
    )


def zipped(entries: list[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return stream.getvalue()


def torch_zip(payload: bytes, *extra: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    return zipped([("archive/data.pkl", payload), *extra, ("archive/version", b"3\n")], method=method)


def persistent(kind: bytes, key: bytes = text("0"), count: int = 1) -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + b"J" + struct.pack("<i", count) + b"tQ"


#: Corpus entries that must be refused with this global name.
NAMED: dict[str, str] = {}


def _named(mark: Path) -> dict[str, tuple[str, bytes]]:
    """name -> (the global that is refused, file)."""
    command = f"touch {mark}"
    python = f"open({str(mark)!r}, 'w')"
    system = name("posix", "system") + text(command) + b"\x85R"
    network = name("torch_utils.persistence", "_reconstruct_persistent_obj")
    meta = {"type": "class", "version": 6, "module_src": python, "class_name": "Generator", "state": {}}
    found = {
        "reduce os.system": ("posix.system", pickle.dumps(Calls(os.system, command))),
        "reduce os.system, protocol 0": ("posix.system", pickle.dumps(Calls(os.system, command), 0)),
        "reduce eval": ("builtins.eval", pickle.dumps(Calls(eval, f"__import__('os').system({command!r})"))),
        "reduce exec": ("builtins.exec", pickle.dumps(Calls(exec, python))),
        "python 2 eval": ("__builtin__.eval", program(name("__builtin__", "eval"), text(python), b"\x85R", protocol=2)),
        "subprocess": ("subprocess.Popen", program(stack_name("subprocess", "Popen"), text(command), b"\x85R")),
        "nt.system": ("nt.system", program(name("nt", "system"), text(command), b"\x85R", protocol=2)),
        "getattr chain": (
            "builtins.getattr",
            program(
                name("builtins", "getattr"),
                name("builtins", "__import__"),
                text("os"),
                b"\x85R",
                text("system"),
                b"\x86R",
                text(command),
                b"\x85R",
            ),
        ),
        "getattr of an allowed name": (
            "builtins.getattr",
            program(name("builtins", "getattr"), name("collections", "OrderedDict"), text("__init__"), b"\x86R"),
        ),
        "operator.attrgetter": (
            "operator.attrgetter",
            program(name("operator", "attrgetter"), text("system"), b"\x85R"),
        ),
        "operator.methodcaller": (
            "operator.methodcaller",
            program(name("operator", "methodcaller"), text("system"), text(command), b"\x86R"),
        ),
        "functools.partial": ("functools.partial", program(name("functools", "partial"), system, b"\x85R")),
        "importlib": ("importlib.import_module", program(name("importlib", "import_module"), text("os"), b"\x85R")),
        "runpy": ("runpy.run_path", program(name("runpy", "run_path"), text(str(mark)), b"\x85R")),
        "webbrowser": ("webbrowser.open", program(name("webbrowser", "open"), text("file:///"), b"\x85R")),
        "timeit": ("timeit.timeit", program(name("timeit", "timeit"), text(python), b"\x85R")),
        "code": ("types.CodeType", program(name("types", "CodeType"), b")R")),
        "marshal": ("marshal.loads", program(name("marshal", "loads"), b"C\x01N\x85R")),
        "ctypes": ("ctypes.CDLL", program(name("ctypes", "CDLL"), text("libc.so.6"), b"\x85R")),
        "dotted name": ("os.system.__call__", program(stack_name("os", "system.__call__"))),
        "module of an allowed module": (
            "torch.storage.sys.modules",
            program(stack_name("torch.storage", "sys.modules")),
        ),
        "numpy's own os": ("numpy.ctypeslib.os.system", program(stack_name("numpy.ctypeslib", "os.system"))),
        "collections' own sys": ("collections._sys.exit", program(stack_name("collections", "_sys.exit"), b")R")),
        "torch.load": ("torch.load", program(name("torch", "load"), text(str(mark)), b"\x85R")),
        "torch.hub": ("torch.hub.load", program(name("torch.hub", "load"), text("a/b"), text("c"), b"\x86R")),
        "torch.jit": (
            "torch.jit.unsupported_tensor_ops.execWrapper",
            program(name("torch.jit.unsupported_tensor_ops", "execWrapper"), text(python), b"}}\x87R"),
        ),
        "numpy.load": ("numpy.load", program(name("numpy", "load"), text(str(mark)), b"\x85R")),
        "numpy's exec": (
            "numpy.testing._private.utils.runstring",
            program(name("numpy.testing._private.utils", "runstring"), text(python), b"}\x86R"),
        ),
        "pickle.loads": ("_pickle.loads", pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, command))))),
        "copyreg": ("copyreg._reconstructor", program(name("copyreg", "_reconstructor"), b"NN\x86R")),
        "builds an object's __setstate__": (
            "builtins.type",
            program(name("builtins", "type"), text("x"), b")}", b"\x87R", b"}", text("__setstate__"), system, b"sb"),
        ),
        "a call inside state for a dict": (
            "posix.system",
            program(name("dnnlib.util", "EasyDict"), b")R}", text("a"), system, b"sb"),
        ),
        "a call as a dict key": ("posix.system", program(b"}", system, b"Ns")),
        "nested: pickle": ("posix.system", nested(pickle.dumps(Calls(os.system, command)))),
        "nested: object of a stream": ("posix.system", nested(legacy(pickle.dumps(Calls(os.system, command))))),
        "nested: machine of a stream": (
            "posix.system",
            nested(pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL, 2) + pickle.dumps(Calls(os.system, command))),
        ),
        "nested: keys of a stream": (
            "posix.system",
            nested(legacy(program(b"N"), keys=pickle.dumps(Calls(os.system, command)))),
        ),
        "nested: twice": (
            "torch.storage._load_from_bytes",
            nested(legacy(nested(pickle.dumps(Calls(os.system, command))))),
        ),
        "nested: through a network's state": (
            "posix.system",
            program(network, b"}", text("state"), b"}", text("x"), system, b"ss\x85R"),
        ),
        "network with source text and a call": (
            "posix.system",
            program(b"}(", text("G_ema"), network, pickle.dumps(meta, 2)[2:-1], b"\x85R", text("D"), system, b"u"),
        ),
        "persistent id that calls": ("posix.system", program(system, b"Q", protocol=2)),
        "zip: os.system": ("posix.system", torch_zip(pickle.dumps(Calls(os.system, command), 2))),
        "zip: storage type": (
            "posix.system",
            torch_zip(program(persistent(name("posix", "system")), protocol=2), ("archive/data/0", b"1234")),
        ),
        "zip: untyped storage": (
            "torch.UntypedStorage",
            torch_zip(program(persistent(name("torch", "UntypedStorage")), protocol=2)),
        ),
        "legacy: os.system": ("posix.system", legacy(pickle.dumps(Calls(os.system, command), 2))),
        "legacy: in the magic number": (
            "posix.system",
            storage(1, b"1234").replace(pickle.dumps({}, 2), pickle.dumps(Calls(os.system, command), 2), 1),
        ),
        "namespace with a call": (
            "posix.system",
            program(name("argparse", "Namespace"), b")\x81}", text("a"), system, b"sb", protocol=2),
        ),
        "TensorFlow network with a call": (
            "posix.system",
            program(name("dnnlib.tflib.network", "Network"), b")\x81}", text("variables"), system, b"sb"),
        ),
    }
    return found


def _damaged(mark: Path) -> dict[str, bytes]:
    command = str(mark)
    network = name("torch_utils.persistence", "_reconstruct_persistent_obj")
    values = np.arange(6, dtype=np.float32).tobytes()
    blob = storage(6, values)
    tuples = b")" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
    chain = [network + b"}" + text("state") + b"}s\x85R" + b"\x94"]
    for i in range(50):  # each network holds the one before twice
        pair = b"}(" + text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i]) + b"u"
        chain.append(network + b"}" + text("state") + b"}" + text("_modules") + pair + b"ss\x85R\x94")
    deep = network + b"}" + text("state") + b"}" + text("_modules") + b"}" + text("a")
    array = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    dtype = (
        name("numpy", "dtype")
        + text("f4")
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    good = torch_zip(program(persistent(name("torch", "FloatStorage")), protocol=2), ("archive/data/0", b"1234"))
    bomb = zipped([("archive/data.pkl", b"\0" * 2**26)], method=zipfile.ZIP_DEFLATED)
    return {
        "empty": b"",
        "only a protocol": b"\x80\x04",
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "INST behind a protocol": program(f"(S'{command}'\nios\nsystem\n".encode(), protocol=2),
        "OBJ": program(b"(", name("collections", "OrderedDict"), b"o", protocol=2),
        "NEWOBJ_EX": program(name("collections", "OrderedDict"), b")}\x92"),
        "EXT1": program(b"\x82\x01"),
        "EXT4": program(b"\x84\x01\x00\x00\x00"),
        "text persistent id": program(b"P1\n"),
        "persistent id in a plain pickle": program(persistent(name("torch", "FloatStorage"))),
        "out of band buffers": program(b"\x97", protocol=5),
        "state for a class": program(name("collections", "OrderedDict"), b"}", text("fromkeys"), b"K\x01sb"),
        "state for a function": program(name("torch._utils", "_rebuild_parameter"), b"}", text("call"), b"K\x01sb"),
        "state for a storage type": program(name("torch", "FloatStorage"), b"}", text("value"), b"K\x01sb"),
        "state for a list": program(b"]}", text("append"), b"K\x01sb"),
        "state twice": program(
            name("argparse", "Namespace"), b")\x81}", text("a"), b"K\x01sb}", text("__class__"), b"K\x01sb"
        ),
        "attributes by slots": program(name("argparse", "Namespace"), b")\x81N}", text("state"), b"K\x01s\x86b"),
        "a call of a class": program(name("argparse", "Namespace"), b")R"),
        "a call of a marker": program(name("numpy", "ndarray"), b")R"),
        "an object of a function": program(name("torch._utils", "_rebuild_parameter"), b")\x81"),
        "a dict of pairs": program(name("dnnlib.util", "EasyDict"), b"]\x85R"),
        "a tuple as a key": program(b"}", b"K\x01K\x02\x86K\x00s"),
        "nested tuples as a key": program(b"}", tuples, b"K\x00s"),
        "nested tuples in a set": program(b"\x8f(", tuples, b"\x90"),
        "nested tuples as a name": program(tuples, tuples, b"\x93"),
        "nested tuples as a class name": program(
            network, b"}(", text("class_name"), tuples, text("state"), b"}u\x85R", text("x"), b"b"
        ),
        "nested tuples as a dtype": program(name("numpy", "dtype"), tuples, b"\x85R"),
        "nested tuples as a storage key": torch_zip(
            program(persistent(name("torch", "FloatStorage"), tuples), protocol=2)
        ),
        "colliding numbers as keys": program(
            b"}(", *(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(1, 2000)), b"u"
        ),
        "arguments that stand for 2^60": program(
            network, b"}", text("state"), b"}", text("_init_kwargs"), b"}", text("a"), tuples, b"sss\x85R"
        ),
        "networks that stand for 2^50": program(*chain),
        "networks within networks": program(deep * 3000, network, b"}", text("state"), b"}s\x85R", b"sss\x85R" * 3000),
        "a million empty sets": program(b"\x8f" * 2_000_000),
        "a million marks": program(b"(" * 2_000_000),
        "tuples in tuples": program(b")" + b"\x85" * 1_500_000),
        "huge memo index": program(b"]r\xff\xff\xff\xffh\x00"),
        "a text of 2^63 bytes": program(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
        "bytes of 2^63": program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f"),
        "bytes of 2^31": program(b"B\xff\xff\xff\x7f"),
        "a number of 2^31 bytes": program(b"\x8b\xff\xff\xff\x7f"),
        "a number of a million digits": program(b"L" + b"9" * 1_000_000 + b"L\n"),
        "a frame of 2^63, and nothing": program(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f")[:-1],
        "missing values": program(b"ue"),
        "a mark taken as a value": program(b"(\x94"),
        "unknown opcode": program(b"\xff"),
        "storage of 2^40 elements": pickle.dumps(tensor(storage(2**40, values), (6,), (1,))),
        "storage of -1 elements": pickle.dumps(tensor(storage(-1, values), (6,), (1,))),
        "tensor of 2^39": pickle.dumps(tensor(blob, (2**39,), (1,))),
        "tensor of 2^39 by stride 0": pickle.dumps(tensor(blob, (2**39,), (0,))),
        "tensor before its storage": pickle.dumps(tensor(blob, (6,), (1,), -1)),
        "tensor past its storage": pickle.dumps(tensor(blob, (2, 3), (4, 1))),
        "tensor of negative stride": pickle.dumps(tensor(blob, (2,), (-1,), 1)),
        "complex storage": pickle.dumps(tensor(storage(6, values, kind="ComplexFloatStorage"), (3,), (1,))),
        "encoding that unfolds": program(name("_codecs", "encode"), text("x"), text("zip"), b"\x86R"),
        "decoding by encode": program(name("_codecs", "encode"), text("aaaa"), text("unicode_escape"), b"\x86R"),
        "text encoded many times": program(
            text("a" * 100_000), b"\x94", *[name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R"] * 1000
        ),
        "sets of one long list": program(
            b"](" + b"K\x01" * 50_000 + b"e\x94", *[name("builtins", "set") + b"h\x00\x85R"] * 1000
        ),
        "numpy array larger than its data": program(array, b"(K\x01J\xff\xff\xff\x7f\x85", dtype, b"\x89C\x04abcdtb"),
        "numpy array of negative size": program(array, b"(K\x01J\xff\xff\xff\xff\x85", dtype, b"\x89C\x04abcdtb"),
        "numpy array without data": program(b"}", text("x"), array, b"s"),
        "numpy object array": pickle.dumps(np.array([object], dtype=object)),
        "numpy object array of calls": pickle.dumps(np.array([Calls(os.system, f"touch {command}")], dtype=object)),
        "numpy structured array": pickle.dumps(np.zeros(1, [("a", "i8")])),
        "zip: path outside": torch_zip(program(b"N"), ("../../../tmp/outside", b"x")),
        "zip: absolute path": torch_zip(program(b"N"), ("/tmp/outside", b"x")),
        "zip: drive letter": torch_zip(program(b"N"), ("C:\\outside", b"x")),
        "zip: two data.pkl": zipped([("a/data.pkl", program(b"N")), ("b/data.pkl", program(b"N"))]),
        "zip: no data.pkl": zipped([("archive/data", b"x")]),
        "zip: storage key outside": torch_zip(
            program(persistent(name("torch", "FloatStorage"), text("../../../../etc/passwd")), protocol=2)
        ),
        "zip: missing storage": torch_zip(program(persistent(name("torch", "FloatStorage")), protocol=2)),
        "zip: storage of another size": torch_zip(
            program(persistent(name("torch", "FloatStorage"), count=2**30), protocol=2), ("archive/data/0", b"1234")
        ),
        "zip: deflated bomb": bomb,
        "zip: cut off": good[:-30],
        "zip: wrong checksum": good.replace(b"1234", b"1235", 1),
        "zip: big-endian": torch_zip(program(b"N"), ("archive/byteorder", b"big")),
        "zip: directory that claims 2^31": good[:-10] + struct.pack("<II", 2**31 - 1, 0) + good[-2:],
        "legacy: no keys": legacy(program(b"N", protocol=2), keys=b""),
        "legacy: storage views": legacy(
            program(
                b"(",
                text("storage"),
                name("torch", "FloatStorage"),
                text("0"),
                text("cpu"),
                b"K\x01",
                b"(",
                text("v"),
                b"K\x00K\x01tt",
                b"Q",
                protocol=2,
            )
        ),
        "legacy: a key twice": storage(1, b"1234" + struct.pack("<q", 1) + b"1234").replace(
            b"]" + text("0") + b"a.", b"](" + text("0") * 2 + b"e."
        ),
        "web page": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }


def corpus(mark: Path) -> dict[str, bytes]:
    """All hostile files by name."""
    named = _named(mark)
    NAMED.update({title: refused for title, (refused, _) in named.items()})
    return {title: data for title, (_, data) in named.items()} | _damaged(mark)
