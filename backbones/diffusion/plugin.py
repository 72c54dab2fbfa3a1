"""Registers the diffusion and flow backbones."""

import backbones.diffusion.flux
import backbones.diffusion.stable_diffusion  # noqa: F401
