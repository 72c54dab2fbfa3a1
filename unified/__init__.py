"""One interface to invert and generate with GANs, diffusion models and autoregressive models.

    import unified
    gan = unified.load("avatars/stylegan2")
    me = gan.invert(["a.png"], recipe="pti")
    gan.generate(me, edits={"mouth=smile": 2.0})
"""

from __future__ import annotations

from unified._shadow_check import check as _check_shadows
from unified._torchvision_guard import guard as _guard_torchvision

_check_shadows()
_guard_torchvision()

from unified.api import families, matrix, models, recipes  # noqa: E402
from unified.contract.concept import Concept  # noqa: E402
from unified.contract.recipe import Recipe, Stage  # noqa: E402
from unified.contract.reference import Reference  # noqa: E402
from unified.contract.target import Target  # noqa: E402
from unified.errors import UserError  # noqa: E402
from unified.loading import load  # noqa: E402

__all__ = [
    "Concept",
    "Recipe",
    "Reference",
    "Stage",
    "Target",
    "UserError",
    "families",
    "load",
    "matrix",
    "models",
    "recipes",
]
