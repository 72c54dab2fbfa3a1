"""One interface to invert and generate with GANs, diffusion models and autoregressive models."""

from __future__ import annotations

from unified._shadow_check import check as _check_shadows
from unified._torchvision_guard import guard as _guard_torchvision

_check_shadows()
_guard_torchvision()
