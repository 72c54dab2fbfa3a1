"""Registers every space, method, objective and recipe of this package: each module registers itself."""

import importlib
import pkgutil

import inversion

for _module in pkgutil.walk_packages(inversion.__path__, "inversion."):
    if _module.name != __name__:
        importlib.import_module(_module.name)
