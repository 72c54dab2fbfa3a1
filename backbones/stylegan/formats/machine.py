"""A pickle interpreter that knows only what plain data needs.

It is not a subclass of the standard library's: opcodes that are not listed here do not exist, memory and work are
bounded (see :mod:`source`), and calls go only to the inert replacements that the given table names.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

from backbones.stylegan.formats.errors import UnsafeFileError, damaged, refused
from backbones.stylegan.formats.source import BYTES, TEXTS, Source, operations
from backbones.stylegan.formats.values import Array, DType, Function, Stub, StubClass, plain_keys

_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"})
_CONSTANTS = _NUMBERS | TEXTS | BYTES
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_IGNORED = frozenset({"PROTO", "FRAME"})


def run(
    source: Source,
    names: Mapping[str, Any],
    *,
    persistent: Callable[[Any], Any] | None = None,
    skip: bool = False,
) -> Any:
    """The value of the pickle that starts at the source's position, and leave the source behind it.

    names: what "module.name" stands for; a name that is not there is refused. persistent: gives the object of a
    persistent id. skip: large byte strings become :class:`Gap`. Raises UnsafeFileError, and nothing else.
    """
    try:
        return _Machine(source, names, persistent).run(skip)
    except UnsafeFileError:
        raise
    except MemoryError:
        raise damaged("it needs more memory than there is") from None
    except Exception as error:  # whatever a malformed stream provokes
        raise damaged(f"{type(error).__name__} at byte {source.tell()} ({str(error)[:100]})") from None


class _Machine:
    def __init__(self, source: Source, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.source, self.names, self.persistent = source, names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, skip: bool) -> Any:
        for opcode, argument, _ in operations(self.source, skip=skip):
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _GET:
                self.stack.append(self.memo[argument])
            elif name in _PUT:
                self.memo[argument] = self._top()
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self._top()
            elif name in _VALUES:
                self.stack.append(_VALUES[name])
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _TUPLES:
                self.stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
            elif name in _IGNORED:
                continue
            elif name == "STOP":
                return self._pop()
            else:
                handler = _HANDLERS.get(name)
                if handler is None:
                    raise damaged(f"the pickle opcode {name} is not used in checkpoints")
                handler(self, argument)

    # --- the stack ----------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise damaged("a value is missing")
        return self.stack.pop()

    def _top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise damaged("a value is missing")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self.marks:
            raise damaged("a mark is missing")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # --- opcodes ------------------------------------------------------------------------------------------

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def pop_mark(self, _: Any) -> None:
        self._since_mark()

    def tuple_(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def list_(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def dict_(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._fill(items)

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._fill([key, value])

    def setitems(self, _: Any) -> None:
        self._fill(self._since_mark())

    def additems(self, _: Any) -> None:
        values = self._since_mark()
        target = self._top()
        if type(target) is not set:
            raise damaged("members for something that is no set")
        target.update(plain_keys(values))

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise damaged("members for something that is no list")
        target.extend(values)

    def _fill(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise damaged("items for something that is no dict")
        target.update(zip(plain_keys(items[::2]), items[1::2], strict=True))

    # --- names, calls and objects --------------------------------------------------------------------------

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._find(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise damaged("a name is not a text")
        self._find(module, name)

    def _find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.names:
            raise refused(full)
        self.stack.append(self.names[full])

    def reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise damaged("a call without arguments")
        if function is dict or function is collections.OrderedDict:
            if arguments:
                raise damaged("a dict with arguments")
            self.stack.append(function())
        elif isinstance(function, Function):
            self.stack.append(function.call(*arguments))
        else:
            raise damaged("a call of something that is no function")

    def newobj(self, _: Any) -> None:
        arguments, kind = self._pop(), self._pop()
        if not isinstance(arguments, tuple) or arguments:
            raise damaged("an object with arguments")
        if kind is dict or kind is collections.OrderedDict:
            self.stack.append(kind())
        elif isinstance(kind, StubClass):
            self.stack.append(Stub(kind.name, {}))
        else:
            raise damaged("an object of a class that may not be created")

    def build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, DType | Array):
            target.set_state(state)
        elif isinstance(target, Stub) and not target.state:
            if not isinstance(state, dict):
                raise damaged("the state of an object is no dict")
            target.state = state
        elif not isinstance(target, dict):
            raise damaged("state for something that takes none")
        # The state of a dict is attributes such as OrderedDict._metadata: not needed.

    def binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise damaged("an object is stored outside the file")
        self.stack.append(self.persistent(self._pop()))


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "TUPLE": _Machine.tuple_,
    "LIST": _Machine.list_,
    "DICT": _Machine.dict_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "ADDITEMS": _Machine.additems,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.newobj,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.binpersid,
}
