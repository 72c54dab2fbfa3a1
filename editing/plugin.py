"""Registers every scheme of this package: each module registers itself."""

import importlib
import pkgutil

import editing

for _module in pkgutil.walk_packages(editing.__path__, "editing."):
    if _module.name != __name__:
        importlib.import_module(_module.name)

from unified.zoo.registry import ZooModel, register_model  # noqa: E402

register_model(
    ZooModel(
        name="avatars/directions",
        summary="attribute directions of avatars/stylegan2 (InterFaceGAN, SeFa, GANSpace, StyleSpace and others)",
        folder="directions",
        build="editing.find.build:build",
        needs=("avatars/stylegan2", "avatars/attributes"),
    )
)
register_model(
    ZooModel(
        name="avatars/channel-effects",
        summary="what the style channels of avatars/stylegan2 do to pictures: edits by text (StyleCLIP)",
        folder="channel-effects",
        build="editing.find.styleclip:build",
        needs=("avatars/stylegan2", "avatars/clip"),
    )
)
register_model(
    ZooModel(
        name="avatars/text-steps",
        summary="what steps in the space of avatars/clip mean in avatars/stylegan2: prompts for GAN concepts",
        folder="text-steps",
        build="editing.find.text_steps:build",
        needs=("avatars/stylegan2", "avatars/clip"),
    )
)
