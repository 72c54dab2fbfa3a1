"""Every name a pickle asks for, found by walking its opcodes: nothing is made, called or kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pickletools import OpcodeInfo, markobject

from backbones.stylegan.formats.source import TEXTS, Gap, Source, operations

_LONGEST = 200  # characters; longer texts are no names
_MOSTTEXTS = 50_000
_NESTED = 4
_MARK = "\0mark"
UNKNOWN = "(a name computed while reading)"


class Scan:
    """names: how often each "module.name" is asked for. texts: the short texts met.

    STACK_GLOBAL takes its names from the stack, so texts are followed through stack and memo.
    """

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.texts: set[str] = set()
        self.operations = 0

    def stream(
        self,
        source: Source,
        *,
        limit: int | None = None,
        decisive: Callable[[], bool] | None = None,
        nested: bool = False,
        depth: int = 0,
    ) -> None:
        """Walk one pickle. nested: byte strings that are pickles themselves too. limit: opcodes to look at."""
        stack: list[str | None] = []  # texts that may become names, None for everything else, _MARK
        memo: dict[int, str | None] = {}
        for seen, (opcode, argument, _) in enumerate(operations(source, skip=True)):
            name = opcode.name
            self.operations += 1
            asked = ""
            result: str | None = None
            if name in TEXTS:
                self._text(argument)
                result = argument if len(argument) <= _LONGEST else None
            elif name in ("GLOBAL", "INST"):
                asked = argument.replace(" ", ".", 1)
            elif name == "STACK_GLOBAL":
                module, attribute = stack[-2:] if len(stack) >= 2 else (None, None)
                asked = UNKNOWN if _MARK in (module, attribute) else f"{module}.{attribute}"
                asked = UNKNOWN if module is None or attribute is None else asked
            elif name in ("EXT1", "EXT2", "EXT4"):
                asked = f"(registered extension {argument})"
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                result = memo.get(argument)
            elif name == "MEMOIZE":
                memo[len(memo)] = result = stack[-1] if stack else None
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1] if stack else None
            elif nested and depth < _NESTED and isinstance(argument, bytes | bytearray | Gap):
                self._nested(source, argument, depth + 1)
            _effect(opcode, stack, result)
            if asked:
                self.names[asked] += 1
                if decisive is not None and decisive():
                    return
            if limit is not None and seen >= limit:
                return

    def _text(self, text: str) -> None:
        if len(text) <= _LONGEST and len(self.texts) < _MOSTTEXTS:
            self.texts.add(text)

    def _nested(self, source: Source, data: bytes | bytearray | Gap, depth: int) -> None:
        """The pickles one after the other at the start of a byte string, if it looks like one."""
        part = source.window(data.position, data.size) if isinstance(data, Gap) else Source(data, source.budget)
        if not looks_like_pickle(part.read(2)):
            return
        part.seek(0)
        while looks_like_pickle(part.read(2)):
            part.seek(part.tell() - 2)
            try:
                self.stream(part, nested=True, depth=depth)
            except Exception:  # what follows the pickles is raw numbers
                return


def _effect(opcode: OpcodeInfo, stack: list[str | None], result: str | None) -> None:
    """What an opcode takes from the stack and puts there, as pickletools.dis follows it."""
    before = opcode.stack_before
    if opcode.name == "POP" and stack and stack[-1] == _MARK:
        stack.pop()
        return
    take = len(before)
    if markobject in before:
        while stack and stack.pop() != _MARK:
            pass
        take = before.index(markobject)
    if take:
        del stack[-take:]
    for kind in opcode.stack_after:
        stack.append(_MARK if kind is markobject else result)


def looks_like_pickle(start: bytes) -> bool:
    return len(start) == 2 and ((start[0] == 0x80 and start[1] <= 5) or start[:1] in b"(c]}")
