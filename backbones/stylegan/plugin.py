"""Registers the StyleGAN backbone."""

import backbones.stylegan.backbone  # noqa: F401
