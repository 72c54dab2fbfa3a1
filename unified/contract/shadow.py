"""Copy-on-write copies of modules: new module objects, the same tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


def shadow(module: nn.Module) -> nn.Module:
    """A private copy of `module` that shares every parameter and buffer with it.

    Structure (submodules, hooks, attributes) may be changed freely; tensors must not be written in place.
    """
    memo: dict[int, Any] = {id(t): t for t in module.parameters()}
    memo.update({id(t): t for t in module.buffers()})
    return copy.deepcopy(module, memo)


def split_path(path: str) -> tuple[str, str]:
    """'a.b.weight' -> ('a.b', 'weight')."""
    owner, _, leaf = path.rpartition(".")
    return owner, leaf


def pristine_tensor(module: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at `path`."""
    owner, leaf = split_path(path)
    value = getattr(module.get_submodule(owner), leaf)
    if not isinstance(value, Tensor):
        raise KeyError(path)
    return value


def compute_parameter(module: nn.Module, path: str, base: Tensor, changes: Sequence[Change]) -> None:
    """Make the tensor at `path` of a shadow a computed one: `changes` applied to `base` at each access.

    The value is read late, so an optimiser that replaces a code's tensors need not bind again, and the
    gradient flows to whatever `changes` read. `changes` is kept by reference.
    """
    owner_path, leaf = split_path(path)
    owner = module.get_submodule(owner_path)
    computed = owner.__dict__.get("_unified_computed")
    if computed is None:
        computed = {}
        owner.__dict__["_unified_computed"] = computed
        # A class of its own for this one module object: properties live on classes, not on instances.
        owner.__class__ = type(owner.__class__.__name__, (owner.__class__,), {"__module__": owner.__class__.__module__})
    computed[leaf] = (base, changes)
    owner._parameters.pop(leaf, None)
    owner._buffers.pop(leaf, None)

    def read(self: nn.Module) -> Tensor:
        value, steps = self.__dict__["_unified_computed"][leaf]
        for change in steps:
            value = change(value)
        return value

    setattr(owner.__class__, leaf, property(read))
