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
        summary="attribute directions of avatars/stylegan2 (InterFaceGAN)",
        folder="directions",
        build="editing.find_directions:build",
        needs=("avatars/stylegan2", "avatars/attributes"),
    )
)
