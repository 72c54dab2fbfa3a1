"""Registers the StyleGAN backbone, its embedded model and the encoders into it."""

import backbones.stylegan.backbone
import backbones.stylegan.formats.export
import backbones.stylegan.loading  # noqa: F401
from backbones.stylegan.encoders.finding import ENCODERS, NEEDS
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

for _name, _summary in ENCODERS.items():
    register_model(
        ZooModel(
            name=f"avatars/encoder-{_name}",
            summary=f"{_summary}; for avatars/stylegan2",
            folder=f"encoder-{_name}",
            build=f"backbones.stylegan.encoders.train:{_name.replace('-', '_')}",
            needs=("avatars/stylegan2", "avatars/identity", "lpips-alex", *NEEDS.get(_name, ())),
        )
    )
