"""Registers every scheme of this package: each module registers itself."""

import importlib
import pkgutil

import editing

for _module in pkgutil.walk_packages(editing.__path__, "editing."):
    if _module.name != __name__:
        importlib.import_module(_module.name)
