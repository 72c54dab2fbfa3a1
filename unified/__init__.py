"""One interface to invert and generate with GANs, diffusion models and autoregressive models.

import unified
gan = unified.load("avatars/stylegan2")
me = gan.invert(["a.png"], recipe="pti")
gan.generate(me, edits={"mouth=smile": 2.0})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unified._shadow_check import check as _check_shadows
from unified._torchvision_guard import install as _install_torchvision_guard

if TYPE_CHECKING:
    from unified.api import families, matrix, models, recipes
    from unified.comparison.compare import compare
    from unified.comparison.report import Report
    from unified.comparison.run import Run
    from unified.contract.concept import Concept
    from unified.contract.recipe import Recipe, Stage
    from unified.contract.reference import Reference
    from unified.contract.target import Drag, Target
    from unified.edits import Edit
    from unified.errors import UserError
    from unified.loading import load

_check_shadows()
_install_torchvision_guard()

# Public name -> the module it lies in, imported at first use, so that the command line answers at once.
_PUBLIC = {
    "Concept": "unified.contract.concept",
    "Drag": "unified.contract.target",
    "Edit": "unified.edits",
    "Recipe": "unified.contract.recipe",
    "Reference": "unified.contract.reference",
    "Report": "unified.comparison.report",
    "Run": "unified.comparison.run",
    "Stage": "unified.contract.recipe",
    "Target": "unified.contract.target",
    "UserError": "unified.errors",
    "compare": "unified.comparison.compare",
    "families": "unified.api",
    "load": "unified.loading",
    "matrix": "unified.api",
    "models": "unified.api",
    "recipes": "unified.api",
}

__all__ = [
    "Concept",
    "Drag",
    "Edit",
    "Recipe",
    "Reference",
    "Report",
    "Run",
    "Stage",
    "Target",
    "UserError",
    "compare",
    "families",
    "load",
    "matrix",
    "models",
    "recipes",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'unified' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
