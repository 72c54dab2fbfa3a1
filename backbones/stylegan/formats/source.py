"""Reading bytes with limits: nothing larger than what is there, and not too much work in all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pickletools import OpcodeInfo, opcodes, uint1
from typing import Any, BinaryIO

from backbones.stylegan.formats.errors import damaged

OPERATIONS = 400_000
"""Work that one file may ask for: one per pickle opcode or member, and one per 4 KiB. Checkpoints of 1024 px
need about an eighth; the smallest objects cost up to 300 bytes of memory each, so this is a limit of both."""

_CHUNK = 4096
LARGE = 4096
"""Byte strings from this size on are kept as bytearray, so that tensors can use them without a copy."""


class Budget:
    """The work left for one file, shared by the streams nested in it."""

    __slots__ = ("bytes", "operations")

    def __init__(self, size: int, *, operations: int = OPERATIONS) -> None:
        self.operations = operations + size // _CHUNK * 2
        self.bytes = 2 * size + 2**16

    def spend(self, operations: int) -> None:
        self.operations -= operations
        if self.operations < 0:
            raise damaged("reading it would take more work than any checkpoint does")

    def copy(self, size: int) -> None:
        """Account for `size` bytes made from bytes of the file a second time."""
        self.bytes -= size
        if self.bytes < 0:
            raise damaged("it would need more memory than its size explains")


class Source(io.RawIOBase):
    """A seekable stream, or bytes in memory, that refuses to read past its end."""

    def __init__(self, content: BinaryIO | bytes | bytearray | memoryview, budget: Budget | None = None) -> None:
        super().__init__()
        self._start = self._position = self._block_start = 0
        self._block = b""
        if isinstance(content, bytes | bytearray | memoryview):
            self._memory: memoryview | None = memoryview(content)
            self._file: BinaryIO | None = None
            self.size = len(content)
        else:
            self._memory, self._file = None, content
            self.size = content.seek(0, os.SEEK_END)
        self.budget = budget or Budget(self.size)
        self.largest: int | None = None  # a limit for one read, used while a zip directory is parsed

    def window(self, start: int, size: int) -> Source:
        """The `size` bytes from `start` on as a source of their own, with the same budget."""
        if self._memory is not None:
            return Source(self._memory[start : start + size], self.budget)
        assert self._file is not None
        part = Source(self._file, self.budget)
        part._start, part.size = self._start + start, size
        return part

    @property
    def left(self) -> int:
        return self.size - self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = min(max(base + offset, 0), self.size)
        return self._position

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        """`size` bytes, or what is left if that is less, or all that is left if it is -1."""
        position = self._position
        count = self.size - position
        if size is not None and 0 <= size < count:
            count = size
        if count < LARGE:  # most opcodes are one byte: they come from a block kept in memory
            offset = position - self._block_start
            if offset < 0 or offset + count > len(self._block):
                self._block, self._block_start, offset = self._part(position, min(4 * LARGE, self.left)), position, 0
            data = self._block[offset : offset + count]
        else:
            if self.largest is not None and count > self.largest:
                raise damaged("its directory is larger than any checkpoint's")
            self.budget.spend(count // _CHUNK)
            data = self._part(position, count)
        self._position = position + len(data)
        return data

    def _part(self, position: int, count: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory[position : position + count])
        assert self._file is not None
        self._file.seek(self._start + position)
        return self._file.read(count)

    def exactly(self, size: int) -> bytes:
        if size < 0 or size > self.left:
            raise damaged(f"it ends early, {size} bytes are announced and {self.left} are left")
        data = self.read(size)
        if len(data) != size:
            raise damaged("it became shorter while it was read")
        return data

    def large(self, size: int) -> bytes | bytearray:
        """As :meth:`exactly`, but from LARGE bytes on a bytearray."""
        if size < LARGE or self._file is None:
            data = self.exactly(size)
            return bytearray(data) if size >= LARGE else data
        if size > self.left:
            raise damaged(f"it ends early, {size} bytes are announced and {self.left} are left")
        self.budget.spend(size // _CHUNK)
        buffer = bytearray(size)
        self._file.seek(self._start + self._position)
        view, filled = memoryview(buffer), 0
        while filled < size:
            count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise damaged("it became shorter while it was read")
            filled += count
        self._position += size
        return buffer

    def readline(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        """Up to and with the next line feed; lines in pickles are names and numbers, so at most 64 KiB."""
        start = self._position
        for longest in (128, 2**16):
            self._position = start
            line = self.read(min(longest, self.left))
            end = line.find(b"\n") + 1
            if end:
                break
        else:
            raise damaged("a line does not end")
        self._position = start + end
        return line[:end]


class Gap:
    """Stands for a byte string that was passed over: its size and where it is."""

    __slots__ = ("position", "size")

    def __init__(self, position: int, size: int) -> None:
        self.position, self.size = position, size


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in opcodes}
BYTES = frozenset({"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
TEXTS = frozenset(
    {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
"""Opcodes that push a byte string, and a text."""

_SIZES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}


def operations(source: Source, *, skip: bool = False) -> Iterator[tuple[OpcodeInfo, Any, int]]:
    """(opcode, argument, position) of one pickle up to its STOP, as pickletools.genops, within the limits.

    skip: byte strings of LARGE and more are passed over and given as :class:`Gap`.
    """
    budget = source.budget
    while True:
        position = source.tell()
        budget.operations -= 1
        if budget.operations < 0:
            budget.spend(1)
        code = source.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise damaged(f"byte {position} is no pickle opcode" if code else "it ends early")
        argument: Any = None
        if opcode.arg is None:
            pass
        elif opcode.arg is uint1:  # of the memo: the most frequent by far
            argument = source.exactly(1)[0]
        elif opcode.name in _SIZES:
            size = int.from_bytes(source.exactly(_SIZES[opcode.name]), "little")
            if skip and size >= LARGE:
                if size > source.left:
                    raise damaged(f"it ends early, {size} bytes are announced and {source.left} are left")
                argument = Gap(source.tell(), size)
                source.seek(size, os.SEEK_CUR)
            else:
                argument = source.large(size)
        else:
            try:
                argument = opcode.arg.reader(source)  # type: ignore[arg-type]
            except ValueError as error:
                raise damaged("it ends early" if not source.left else str(error)[:100]) from None
        yield opcode, argument, position
        if opcode.name == "STOP":
            return
