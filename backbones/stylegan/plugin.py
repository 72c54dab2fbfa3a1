"""Registers the StyleGAN backbone and its embedded model."""

import backbones.stylegan.backbone
import backbones.stylegan.formats.export
import backbones.stylegan.loading  # noqa: F401
from unified.zoo.registry import ZooModel, register_model

register_model(
    ZooModel(
        name="avatars/stylegan2",
        summary="StyleGAN2 with discriminator, 64x64",
        folder="stylegan2",
        backbone="stylegan2",
        load="backbones.stylegan.loading:load_ours",
        build="backbones.stylegan.train:build",
        category="person",
    )
)
